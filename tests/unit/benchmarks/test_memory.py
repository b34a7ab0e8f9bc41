"""Memory of a process and its descendants: what they share counts once, peaks stay known."""

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
# Takes a block and gives it back, a line on stdin for each step.
_TAKER = f"""
import sys
print("ready", flush=True)
sys.stdin.readline()
block = b"x" * {_BLOCK_BYTES}
print("taken", flush=True)
sys.stdin.readline()
del block
print("given back", flush=True)
sys.stdin.readline()
"""


@contextmanager
def running(script: str) -> Iterator[subprocess.Popen[str]]:
    """One that has said `ready`; closing its stdin ends it."""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.communicate(timeout=_HANG_S)


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None and process.stdout is not None
    print(file=process.stdin, flush=True)
    process.stdout.readline()


def test_descendants_count_and_what_they_share_counts_once() -> None:
    with running(_FAMILY) as process:
        assert 2 * _BLOCK_BYTES < memory_bytes(process.pid) < 2.5 * _BLOCK_BYTES


def test_what_was_taken_and_given_back_stays_the_peak() -> None:
    with running(_TAKER) as process, watch_memory(process.pid) as watch:
        taken_bytes = watch.idle_bytes + _BLOCK_BYTES * 0.9
        go_on(process)
        deadline_s = time.monotonic() + _HANG_S
        while watch.peak_bytes < taken_bytes and time.monotonic() < deadline_s:
            time.sleep(0.05)
        go_on(process)
        assert memory_bytes(process.pid) < taken_bytes
        assert watch.peak_bytes >= taken_bytes


def test_a_process_that_ends_takes_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(timeout=_HANG_S)
    assert memory_bytes(process.pid) == 0
    with watch_memory(process.pid) as watch:
        pass
    assert (watch.idle_bytes, watch.peak_bytes) == (0, 0)
