"""Directories whose files can be trusted."""

import os
import stat
from pathlib import Path


def check_private(directory: Path) -> str | None:
    """Why the entries in `directory` cannot be trusted; None if they can.

    Where everybody may create files (/dev/shm), the directory must be ours alone. Elsewhere it may
    be root's, or another user's who shares it by making it writable for the group.

    Raises: OSError if it is missing or cannot be looked at.
    """
    status = os.lstat(directory)
    parent_is_open = bool(os.stat(directory.parent).st_mode & stat.S_IWOTH)
    if not stat.S_ISDIR(status.st_mode):
        return "it is a symbolic link or not a directory"
    is_ours = status.st_uid == os.geteuid()
    if parent_is_open and not is_ours:
        return "it belongs to another user"
    if parent_is_open and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "other users may write to it"
    if not is_ours and status.st_uid != 0 and not status.st_mode & stat.S_IWGRP:
        return "it belongs to another user who does not share it"
    return None
