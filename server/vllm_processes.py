"""The processes that vLLM's engines run in: found, and ended when vLLM does not."""

import multiprocessing
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from vllm.v1.engine.async_llm import AsyncLLM

_END_TIMEOUT_S = 5.0
_LOOK_INTERVAL_S = 0.05
_SHARED_MEMORY = Path("/dev/shm")
# Python's names of what vLLM's processes tell each other by, and those of vLLM's sums on a CPU
_QUEUES = ("psm_*", "*-cpushm_*")


def find_processes(llm: AsyncLLM) -> Sequence[psutil.Process]:
    """Of this machine, if this process has started them."""
    client: Any = llm.engine_core
    manager, coordinator = client.resources.engine_manager, client.resources.coordinator
    roots = [*getattr(manager, "processes", ()), *([coordinator.proc] if coordinator else [])]
    return [process for root in roots for process in _with_descendants(root.pid)]


def find_queues(processes: Collection[psutil.Process]) -> Collection[Path]:
    """The files in shared memory by which these talk, and which a killed one leaves behind."""
    mapped = {entry.path for process in processes for entry in _memory_maps(process)}
    found = (path for pattern in _QUEUES for path in _SHARED_MEMORY.glob(pattern))
    return [path for path in found if str(path) in mapped]


def end_processes(processes: Collection[psutil.Process]) -> None:
    """Wait until they have ended; those that do not are killed. To be reaped by their parents."""
    if not _wait_for(processes):
        _kill(processes)
        _wait_for(processes)


def kill_children() -> None:
    """All processes that this one has started through `multiprocessing`: vLLM's, API workers."""
    children = [child.pid for child in multiprocessing.active_children() if child.pid is not None]
    _kill([process for pid in children for process in _with_descendants(pid)])


def _with_descendants(pid: int) -> Iterator[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        yield process
        yield from process.children(recursive=True)


def _memory_maps(process: psutil.Process) -> Sequence[Any]:
    with suppress(psutil.Error):
        return process.memory_maps()
    return ()


def _wait_for(processes: Collection[psutil.Process]) -> bool:
    give_up_at = time.monotonic() + _END_TIMEOUT_S
    while any(map(_is_alive, processes)):
        if time.monotonic() > give_up_at:
            return False
        time.sleep(_LOOK_INTERVAL_S)
    return True


def _is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _kill(processes: Collection[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
