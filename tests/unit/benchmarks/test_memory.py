"""Memory of a process and its descendants: what they share counts once, peaks stay known."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.memory import memory_bytes, watch_memory

_BLOCK_BYTES = 64 * 1024**2
_HANG_S = 60
# Takes a block, shares it with a forked child, which takes one of its own.
_FAMILY = f"""
import os
block = b"x" * {_BLOCK_BYTES}
if os.fork() == 0:
    own = b"y" * {_BLOCK_BYTES}
    print("ready", flush=True)
    os.read(0, 1)
    os._exit(0)
os.wait()
"""


@contextmanager
def family() -> Iterator[int]:
    """The process id of the parent; closing its stdin ends both."""
    process = subprocess.Popen(
        [sys.executable, "-c", _FAMILY], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
    finally:
        process.communicate(timeout=_HANG_S)


def test_descendants_count_and_what_they_share_counts_once() -> None:
    with family() as pid:
        assert 2 * _BLOCK_BYTES < memory_bytes(pid) < 2.5 * _BLOCK_BYTES


def test_what_was_taken_and_given_back_stays_the_peak() -> None:
    with watch_memory(os.getpid()) as watch:
        block = b"x" * _BLOCK_BYTES
        taken_bytes = watch.idle_bytes + len(block) * 0.9
        deadline_s = time.monotonic() + _HANG_S
        while watch.peak_bytes < taken_bytes and time.monotonic() < deadline_s:
            time.sleep(0.05)
        del block
        assert memory_bytes(os.getpid()) < taken_bytes
    assert watch.peak_bytes >= taken_bytes


def test_a_process_that_ends_takes_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(timeout=_HANG_S)
    assert memory_bytes(process.pid) == 0
    with watch_memory(process.pid) as watch:
        pass
    assert (watch.idle_bytes, watch.peak_bytes) == (0, 0)
