"""The entries of a tier's directory: their names, sizes and times of last use."""

import os
import re
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

HEX = re.compile(r"[0-9a-f]{2,128}")
SUFFIX = ".vision"
TEMPORARY_SUFFIX = ".tmp"
_MAX_TEMPORARY_AGE_S = 600


@dataclass(frozen=True, slots=True)
class File:
    """What is known of one entry's file. `mtime_ns` is the time of its last use."""

    num_bytes: int
    mtime_ns: int


class FileIndex:
    """The files that are known, by path below the directory, least recently used first.

    Thread-safe. It may name files that are gone and miss new ones: other processes are at work.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: OrderedDict[str, File] = OrderedDict()
        self._num_bytes = 0

    @property
    def num_bytes(self) -> int:
        with self._lock:
            return self._num_bytes

    def replace(self, files: Iterable[tuple[str, File]]) -> None:
        """Forget what was known; `files` are in the order of their last use."""
        new = OrderedDict(files)
        with self._lock:
            self._files = new
            self._num_bytes = sum(file.num_bytes for file in new.values())

    def put(self, name: str, file: File) -> None:
        """Know a file as the most recently used one."""
        with self._lock:
            self._forget(name)
            self._files[name] = file
            self._num_bytes += file.num_bytes

    def forget(self, name: str) -> None:
        with self._lock:
            self._forget(name)

    def names(self) -> list[str]:
        with self._lock:
            return list(self._files)

    def oldest(self) -> tuple[str, File] | None:
        with self._lock:
            return next(iter(self._files.items()), None)

    def _forget(self, name: str) -> None:
        if (file := self._files.pop(name, None)) is not None:
            self._num_bytes -= file.num_bytes


def describe(status: os.stat_result) -> File:
    return File(status.st_size, status.st_mtime_ns)


def walk(prefix: str) -> Iterator[tuple[str, File]]:
    """Every entry, by its path below the directory; removes temporary files that nobody writes."""
    oldest_ns = time.time_ns() - _MAX_TEMPORARY_AGE_S * 10**9
    for namespace in _list_folders(prefix):
        for folder in _list_folders(f"{prefix}{namespace}"):
            for file in _list(f"{prefix}{namespace}/{folder}"):
                with suppress(OSError):
                    status = file.stat(follow_symlinks=False)
                    if _is_entry(file.name, status):
                        yield f"{namespace}/{folder}/{file.name}", describe(status)
                    elif _is_temporary(file.name) and status.st_mtime_ns < oldest_ns:
                        os.unlink(file.path)


def _list_folders(path: str) -> list[str]:
    return [
        entry.name
        for entry in _list(path)
        if HEX.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
    ]


def _list(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except OSError:
        return []


def _is_entry(name: str, status: os.stat_result) -> bool:
    is_ours = name.endswith(SUFFIX) and HEX.fullmatch(name.removesuffix(SUFFIX)) is not None
    return is_ours and stat.S_ISREG(status.st_mode)


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(TEMPORARY_SUFFIX)
