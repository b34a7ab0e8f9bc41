"""Landlock, by which a process gives up rights; Linux 5.13 or later, landlock(7)."""

import ctypes
import os
import struct

SCOPED_VERSION = 6  # the first that confines signals and abstract sockets
_CREATE_RULESET, _RESTRICT_SELF = 444, 446  # system calls
_VERSION = 1  # a flag of the former
_FILE_RIGHTS = (1 << 13) - 1  # all of the first version, running a program among them
_SCOPED = 0b11  # abstract sockets and signals


def find_landlock() -> int:
    """The version of the kernel's interface; below 1 if it is older, or Landlock turned off."""
    version: int = ctypes.CDLL(None).syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)
    return version


def give_up_files_and_signals() -> None:
    """What needs no file descriptor, and so is not prevented by having none.

    It holds for the calling thread, which must have no_new_privs, and those that it starts.
    """
    version = find_landlock()
    if version < 1:
        return
    rights = struct.pack("Q", _FILE_RIGHTS)
    if version >= SCOPED_VERSION:
        rights = struct.pack("QQQ", _FILE_RIGHTS, 0, _SCOPED)
    libc = ctypes.CDLL(None)
    ruleset = libc.syscall(_CREATE_RULESET, rights, ctypes.c_size_t(len(rights)), 0)
    libc.syscall(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
