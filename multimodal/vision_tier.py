"""One tier of the vision cache: a directory of checksummed embeddings with a byte budget.

Any number of processes may share the directory, on tmpfs or on a disk. An entry is written under a
temporary name and renamed, so it is whole or not there, and it is verified whenever it is read.
Namespaces (other weights, other dtypes, other tenants) lie side by side and share the budget. The
time of last use is the file's mtime, so that every process knows of the uses of every other, and
what was used longest ago goes first.

    DIRECTORY/NAMESPACE/KEY[:2]/KEY.vision
"""

import errno
import logging
import os
import secrets
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from multimodal.decayed_rate import DecayedRate
from multimodal.private_directory import check_private
from multimodal.vision_entry import OVERHEAD_BYTES, DamagedEntry, read_entry, write_entry
from multimodal.vision_file import MAX_ENTRY_BYTES
from multimodal.vision_index import HEX, SUFFIX, TEMPORARY_SUFFIX, File, FileIndex, describe, walk

_MAX_REJECTED = 4096
_LOG_INTERVAL_S = 60
_SCAN_INTERVAL_S = 60
_MAX_SCAN_SHARE = 0.05  # of the time since the last scan, spent on scanning
_MAX_UNSEEN_SHARE = 0.05  # of the budget, written since the last scan
_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})
_UNREADABLE_ERRNOS = frozenset({errno.EACCES, errno.EPERM, errno.EIO})

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TierCounts:
    """What a tier has done since it was made."""

    hits: int = 0
    misses: int = 0
    damaged: int = 0
    write_errors: int = 0
    evictions: int = 0
    bytes_read: int = 0
    bytes_written: int = 0


class _Log:
    """Warnings about one tier, each kind of error at most once a minute. Thread-safe."""

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self._name = name
        self._clock = clock
        self._lock = threading.Lock()
        self._logged_at: dict[tuple[str, int | None], float] = {}

    def error(self, action: str, error: OSError) -> None:
        kind, now = (action, error.errno), self._clock()
        with self._lock:
            if now - self._logged_at.get(kind, float("-inf")) < _LOG_INTERVAL_S:
                return
            self._logged_at[kind] = now
        logger.warning("the %s vision cache cannot %s: %s", self._name, action, error)


class Tier:
    """One namespace of one directory, as one process sees it.

    Thread-safe. Nothing here raises for the state of the directory: what is missing, damaged or
    unreadable is a miss, what cannot be written is not stored, and `counts` tells. A directory that
    `check_private` refuses is not used at all. To be forked only while no thread uses it.

    Args:
        name: "host" or "disk", for logs and metrics.
        directory: made, for this user alone, if it is missing.
        namespace, and every key: 2 to 128 lower-case hex digits.
        max_bytes: of all entries in `directory`, of all namespaces and whoever wrote them.
        fsync: whether entries outlive a crash of the machine; in vain on tmpfs.
        clock: seconds, for the intervals between scans and between log lines.
    Raises: ValueError for a namespace that is not hex digits.
    """

    def __init__(
        self,
        name: str,
        directory: Path,
        namespace: str,
        max_bytes: int,
        *,
        fsync: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not HEX.fullmatch(namespace):
            raise ValueError("the namespace is not 2 to 128 lower-case hex digits")
        self.name = name
        self.max_bytes = max_bytes
        self._directory = directory
        self._prefix = f"{directory}{os.sep}"
        self._namespace = namespace
        self._max_entry_bytes = min(max_bytes, MAX_ENTRY_BYTES)
        self._fsync = fsync
        self._clock = clock
        self._log = _Log(name, clock)
        self._index = FileIndex()
        self._writing = threading.Lock()  # held over I/O, by one store or scan at a time
        self._next_scan = float("-inf")
        self._bytes_since_scan = 0
        self._lock = threading.Lock()  # of what follows; never held over I/O
        self._counts = TierCounts()
        self._load_rate = DecayedRate()
        self._rejected: OrderedDict[str, tuple[int, int, int]] = OrderedDict()
        self._is_disabled = False
        self._open_directory()

    @property
    def counts(self) -> TierCounts:
        with self._lock:
            return self._counts

    @property
    def num_bytes(self) -> int:
        """Bytes of the entries known to be in the directory, those of other namespaces included."""
        return self._index.num_bytes

    @property
    def load_bytes_per_s(self) -> float | None:
        """How fast the last loads opened, read and verified; None before the eighth."""
        with self._lock:
            return self._load_rate.bytes_per_s

    def contains(self, key: str) -> bool:
        """Whether there is a file for the key: one `stat`."""
        name = self._file_name(key)
        if name is None:
            return False
        try:
            status = os.lstat(self._prefix + name)
        except OSError:
            return False
        return stat.S_ISREG(status.st_mode) and not self._is_rejected(name, status)

    def load(self, key: str) -> torch.Tensor | None:
        """Read and verify an entry, (tokens, width); None is a miss. Blocks."""
        name = self._file_name(key)
        started = time.perf_counter()
        embedding = None if name is None else self._read(name, key)
        if name is None or embedding is None:
            self._count(misses=1)
            return None
        seconds = time.perf_counter() - started
        with self._lock:
            self._load_rate.observe(embedding.nbytes, seconds)
        self._count(hits=1, bytes_read=embedding.nbytes + OVERHEAD_BYTES)
        self._touch(name)
        return embedding

    def store(self, key: str, embedding: torch.Tensor) -> bool:
        """Write an entry unless it is there; whether it is there now. Blocks.

        Args:
            embedding: as `write_entry` takes it.
        Raises: ValueError as `write_entry`.
        """
        name = self._file_name(key)
        num_bytes = embedding.nbytes + OVERHEAD_BYTES
        if name is None or num_bytes > self._max_entry_bytes:
            return False
        with self._writing:
            if self.contains(key):
                self._touch(name)
                return True
            if self._clock() >= self._next_scan or self._has_written_much():
                self._scan()
            return self._make_room(num_bytes) and self._write(name, key, embedding)

    def scan(self) -> None:
        """Learn what is in the directory, remove what writers left behind, keep the budget."""
        with self._writing:
            self._scan()

    def clear(self) -> None:
        """Remove all entries of this namespace, whoever wrote them. Blocks."""
        with self._writing:
            self._scan()
            names = [] if self._is_disabled else self._index.names()
            for name in names:
                if name.startswith(f"{self._namespace}/"):
                    self._discard(name)

    def _file_name(self, key: str) -> str | None:
        """The path of an entry below the directory; None if there can be none."""
        if self._is_disabled or not HEX.fullmatch(key):
            return None
        return f"{self._namespace}/{key[:2]}/{key}{SUFFIX}"

    def _count(self, **more: int) -> None:
        with self._lock:
            current = {name: getattr(self._counts, name) + number for name, number in more.items()}
            self._counts = replace(self._counts, **current)

    def _open_directory(self) -> None:
        """Make the directory if it is missing; disable the tier if it cannot be trusted."""
        try:
            with suppress(FileExistsError):
                os.makedirs(self._directory, mode=0o700)
            reason = check_private(self._directory)
        except OSError as error:
            self._log.error("open its directory", error)
            return
        if reason is not None and not self._is_disabled:
            logger.warning("the %s vision cache %s is off: %s", self.name, self._directory, reason)
            self._is_disabled = True

    def _read(self, name: str, key: str) -> torch.Tensor | None:
        path = self._prefix + name
        try:
            if name in self._rejected and self._is_rejected(name, os.lstat(path)):
                return None
            return read_entry(path, self._namespace, key, max_bytes=self._max_entry_bytes)
        except (FileNotFoundError, NotADirectoryError):
            self._index.forget(name)
        except DamagedEntry as error:
            self._count(damaged=1)
            logger.warning("the %s vision cache drops %s: %s", self.name, path, error)
            self._discard(name)
        except OSError as error:
            self._log.error("read an entry", error)
            if error.errno in _UNREADABLE_ERRNOS:
                self._reject(name)
        return None

    def _touch(self, name: str) -> None:
        """Tell this and all other processes that an entry was used."""
        path = self._prefix + name
        with suppress(OSError):
            os.utime(path)
            self._index.put(name, describe(os.lstat(path)))

    def _discard(self, name: str) -> None:
        try:
            os.unlink(self._prefix + name)
            self._index.forget(name)
        except FileNotFoundError:
            self._index.forget(name)
        except OSError:
            self._reject(name)

    def _reject(self, name: str) -> None:
        """Do not read a file again that is of no use and cannot be removed."""
        with suppress(OSError):
            identity = _identify(os.lstat(self._prefix + name))
            with self._lock:
                self._rejected[name] = identity
                if len(self._rejected) > _MAX_REJECTED:
                    self._rejected.popitem(last=False)

    def _is_rejected(self, name: str, status: os.stat_result) -> bool:
        with self._lock:
            return self._rejected.get(name) == _identify(status)

    def _has_written_much(self) -> bool:
        return self._bytes_since_scan > self.max_bytes * _MAX_UNSEEN_SHARE

    def _scan(self) -> None:
        started = self._clock()
        self._open_directory()
        if not self._is_disabled:
            self._index.replace(sorted(walk(self._prefix), key=lambda found: found[1].mtime_ns))
        now = self._clock()
        self._next_scan = now + max(_SCAN_INTERVAL_S, (now - started) / _MAX_SCAN_SHARE)
        self._bytes_since_scan = 0
        self._make_room(0)

    def _make_room(self, num_bytes: int) -> bool:
        """Evict until `num_bytes` more are within the budget; False if that cannot be done."""
        return self._evict_to(self.max_bytes - num_bytes)

    def _evict_to(self, max_bytes: int) -> bool:
        while self._index.num_bytes > max_bytes:
            oldest = self._index.oldest()
            if oldest is None:
                return False
            try:
                self._evict(*oldest)
            except OSError as error:
                self._fail("remove an entry", error)
                self._index.put(*oldest)  # the next one gets its turn at the next store
                return False
        return True

    def _evict(self, name: str, known: File) -> None:
        """Remove a file, unless it is gone or another process has used it since it was known."""
        path = self._prefix + name
        try:
            current = describe(os.lstat(path))
            if current.mtime_ns > known.mtime_ns:
                self._index.put(name, current)
                return
            os.unlink(path)
        except (FileNotFoundError, NotADirectoryError):
            self._index.forget(name)
            return
        self._index.forget(name)
        self._count(evictions=1)

    def _write(self, name: str, key: str, embedding: torch.Tensor) -> bool:
        try:
            file = self._write_file(self._prefix + name, key, embedding)
        except OSError as error:
            self._fail("write an entry", error)
            if error.errno in _FULL_ERRNOS:
                self._evict_to(self._index.num_bytes - embedding.nbytes - OVERHEAD_BYTES)
            return False
        self._index.put(name, file)
        self._bytes_since_scan += file.num_bytes
        self._count(bytes_written=file.num_bytes)
        return True

    def _write_file(self, path: str, key: str, embedding: torch.Tensor) -> File:
        """Raises: OSError."""
        try:
            return _write_atomically(path, self._namespace, key, embedding, self._fsync)
        except FileNotFoundError:
            self._open_directory()
        if self._is_disabled:
            raise PermissionError(errno.EPERM, "its directory cannot be trusted")
        for folder in (self._prefix + self._namespace, os.path.dirname(path)):
            with suppress(FileExistsError):
                os.mkdir(folder, 0o770)
        return _write_atomically(path, self._namespace, key, embedding, self._fsync)

    def _fail(self, action: str, error: OSError) -> None:
        self._count(write_errors=1)
        self._log.error(action, error)


def _identify(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mtime_ns, status.st_size, status.st_ino


def _write_atomically(
    path: str, namespace: str, key: str, embedding: torch.Tensor, fsync: bool
) -> File:
    """Raises: OSError, and then leaves nothing behind if it can."""
    temporary = f"{os.path.dirname(path)}/.{secrets.token_hex(16)}{TEMPORARY_SUFFIX}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o660)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            write_entry(file, namespace, key, embedding)
            if fsync:
                os.fsync(descriptor)
            written = describe(os.fstat(descriptor))
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    return written
