"""Folders of one run of the server, for sockets and files: gone when it ends, also by `kill -9`.

The owner holds a lock on a file in its folder. What nobody holds a lock on is a left-over, which
the next start of the same user removes.
"""

import fcntl
import logging
import os
import shutil
import stat
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

logger = logging.getLogger(__name__)

_PREFIX = "qwen3vl-serve-"
_LOCK = "owner.lock"


class RunFolder:
    """A new folder that only this user may enter; a context manager that removes it.

    A process that is forked holds the lock as well. The end of this one removes the folder, too.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        # It gets its name when it is locked: no other start can take it for a left-over.
        lock, unnamed = tempfile.mkstemp(dir=self.path)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(unnamed, self.path / _LOCK)
        self._remove = weakref.finalize(self, _remove, self.path, lock, os.getpid())

    def cleanup(self) -> None:
        """May be called again."""
        self._remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cleanup()


def _remove(path: Path, lock: int, owner_pid: int) -> None:
    if os.getpid() == owner_pid:
        shutil.rmtree(path, ignore_errors=True)
    os.close(lock)


def remove_left_overs() -> None:
    """Remove the folders of this user's servers that have been killed."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # it is another user's, or has just been removed
            if _is_own_folder(path) and _remove_unlocked(path):
                logger.info("removed %s, which a killed server has left behind", path)


def _is_own_folder(path: Path) -> bool:
    """Not through a link. Raises: OSError."""
    status = path.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def _remove_unlocked(path: Path) -> bool:
    """Raises: OSError, also if its owner lives, or if there is no lock in it."""
    descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(descriptor)
    return not path.exists()
