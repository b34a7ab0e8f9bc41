"""Processes of an engine: found with their descendants, and ended."""

import multiprocessing
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest

from server import vllm_processes
from server.vllm_processes import end_processes, kill_children

_SLEEP = "import time; time.sleep(600)"
_NOT_ENDING = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def run(code: str) -> psutil.Process:
    return psutil.Process(subprocess.Popen([sys.executable, "-c", code]).pid)


def hang() -> None:
    subprocess.Popen([sys.executable, "-c", _NOT_ENDING])
    time.sleep(600)


def find_hanging(process: psutil.Process) -> psutil.Process | None:
    """What `hang` has started in it; imports start other programs, for a moment."""
    for child in process.children():
        with suppress(psutil.NoSuchProcess):
            if _NOT_ENDING in child.cmdline():
                return child
    return None


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_processes, "_END_TIMEOUT_S", 0.2)


def test_those_that_do_not_end_are_killed() -> None:
    processes = [run(_NOT_ENDING), run("pass")]
    end_processes(processes)
    assert all(process.wait(10) is not None for process in processes)


def test_children_are_killed_with_their_descendants() -> None:
    child = multiprocessing.get_context("spawn").Process(target=hang)
    child.start()
    other = run(_SLEEP)  # not through multiprocessing: a decoder
    process = psutil.Process(child.pid)
    while (grandchild := find_hanging(process)) is None:
        time.sleep(0.05)
    kill_children()
    child.join(10)
    assert child.exitcode == -9
    gone, _ = psutil.wait_procs([grandchild], timeout=10)
    assert gone
    assert other.is_running()
    other.kill()
    other.wait(10)
