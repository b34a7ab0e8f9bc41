"""How much memory a server takes: all of its processes, sampled while it works."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

_MIN_INTERVAL_S = 0.5
# A sample costs 4.4 ms for each GiB, as the kernel walks the page tables (AMD EPYC, 4 KiB pages).
_MAX_CPU_SHARE = 0.01


@dataclass(slots=True)
class MemoryWatch:
    """Bytes of a process and all its descendants, while `watch_memory` runs.

    PSS, so that pages which several of them share count once; where the system does not tell, RSS.

    Attributes:
        idle_bytes: when the watch began.
        peak_bytes: the most that was seen; what lasts for less than the interval can be missed.
    """

    idle_bytes: int
    peak_bytes: int
    _ended: threading.Event = field(default_factory=threading.Event)

    def _run(self, pid: int, interval_s: float) -> None:
        while not self._ended.wait(interval_s):
            interval_s = self._sample(pid)

    def _sample(self, pid: int) -> float:
        """Returns: seconds to wait, so that one core is busy with this for 1 % at most."""
        started_s = time.thread_time()
        self.peak_bytes = max(self.peak_bytes, memory_bytes(pid))
        return max(_MIN_INTERVAL_S, (time.thread_time() - started_s) / _MAX_CPU_SHARE)


@contextmanager
def watch_memory(pid: int) -> Iterator[MemoryWatch]:
    """Sample until the block ends, and once more at its end. The process may end before."""
    idle_bytes = memory_bytes(pid)
    watch = MemoryWatch(idle_bytes, idle_bytes)
    thread = threading.Thread(target=watch._run, args=(pid, _MIN_INTERVAL_S), daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch._ended.set()
        thread.join()
        watch._sample(pid)


def memory_bytes(pid: int) -> int:
    """Of the process and its descendants; 0 if it has ended."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    return sum(map(_own_bytes, family))


def _own_bytes(process: psutil.Process) -> int:
    try:
        pss: int = process.memory_full_info().pss
        return pss
    except (psutil.AccessDenied, AttributeError):  # of another user; not Linux
        return _resident_bytes(process)
    except psutil.NoSuchProcess:  # zombies included
        return 0


def _resident_bytes(process: psutil.Process) -> int:
    try:
        resident: int = process.memory_info().rss
        return resident
    except psutil.NoSuchProcess:
        return 0
