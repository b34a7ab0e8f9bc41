"""A trace of this server on request, by torch's profiler or by py-spy, as files in one directory.

torch records every operation and Python function of the engine, step by step; py-spy samples the
Python stacks of all processes from outside. `docs/profiling.md` says how to read both. Nothing is
loaded or running until a profile is started.
"""

import asyncio
import ctypes
import logging
import os
import shutil
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pydantic import Field

from server.body import BodyModel
from server.engine import Engine
from server.errors import Conflict, ServerError

logger = logging.getLogger(__name__)

Tool = Literal["torch", "py-spy"]

_RATE_HZ = 200
_ATTACH_TIMEOUT_S = 30
_WRITE_TIMEOUT_S = 30  # for py-spy, which needs under a second for minutes of samples
_CLOSE_TIMEOUT_S = 8  # of a shutdown, which supervisors do not wait for without end
_MAX_STEPS = 1000  # a step of the engine takes torch 0.1 MB and 0.3 s when it is written
_MAX_SAMPLING_S = 600
_MAX_REASON_CHARS = 300
_PR_SET_PTRACER = 0x59616D61  # of linux/prctl.h
_PR_SET_PTRACER_ANY = ctypes.c_ulong(-1)


class StartProfileRequest(BodyModel):
    """vLLM's body and `tool`. Its other fields are ignored.

    `max_iterations` ends torch's record after so many steps of the engine.
    """

    tool: Tool = "torch"
    max_iterations: int = Field(default=_MAX_STEPS, ge=1, le=100_000)


class ProfilerFailed(ServerError):
    """The tool cannot trace this server, or has left no trace; the server itself is well."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What a finished profile left: names of files in `directory`, which is absolute."""

    tool: Tool
    files: tuple[str, ...]
    directory: Path


class Profiler:
    """At most one profile at a time.

    Args:
        directory: for the traces; it is made when the first profile is started.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory.absolute()
        self._lock = asyncio.Lock()
        self._running: _Trace | None = None
        self._earlier: Mapping[str, int] = {}

    async def start(self, asked: StartProfileRequest, engine: Engine) -> None:
        """Raises: Conflict if a profile is running; ProfilerFailed; EngineDead."""
        async with self._lock:
            if self._running is not None:
                raise Conflict("a profile is running; stop it first", "profile_running")
            try:
                self._directory.mkdir(parents=True, exist_ok=True)
                self._earlier = self._list_files()
            except OSError as error:
                raise _failed(f"`server.profile_dir`: {error.strerror}") from error
            if asked.tool == "torch":
                await self._start_torch(_TorchTrace(engine), asked.max_iterations)
            else:
                self._running = await _PySpyTrace.start(self._directory)
            logger.info("a profile by %s has been started", asked.tool)

    async def _start_torch(self, trace: "_TorchTrace", max_iterations: int) -> None:
        self._running = trace  # before it begins: nobody may wait for the end of that
        try:
            await trace.start(max_iterations)
        except Exception:
            self._running = None
            raise

    async def stop(self) -> Profile:
        """End the profile and wait until its files are written.

        Raises: Conflict if none is running; ProfilerFailed; EngineDead.
        """
        async with self._lock:
            if self._running is None:
                raise Conflict("no profile is running; start one first", "no_profile")
            return await self._finish(self._running)

    async def close(self) -> None:
        """End a profile that is running; a failure is only logged."""
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S), self._lock:
                if self._running is not None:
                    await self._finish(self._running)
        except Exception:
            logger.exception("the profile that was running at shutdown is lost")

    async def _finish(self, trace: "_Trace") -> Profile:
        try:
            await trace.stop()
        except Exception:
            self._running = (
                None  # but not if the waiting is cancelled: then it can be stopped again
            )
            raise
        self._running = None
        try:
            written = self._list_files().items() - self._earlier.items()
        except OSError as error:
            raise _failed(f"`server.profile_dir`: {error.strerror}") from error
        if not written:
            raise _failed(f"{trace.tool} has written no trace")
        logger.info("the profile by %s is in %s", trace.tool, self._directory)
        return Profile(trace.tool, tuple(sorted(name for name, _ in written)), self._directory)

    def _list_files(self) -> Mapping[str, int]:
        """The files by name, with their times of modification in nanoseconds."""
        times = {}
        for path in self._directory.iterdir():
            with suppress(FileNotFoundError):  # removed meanwhile
                if path.is_file():
                    times[path.name] = path.stat().st_mtime_ns
        return times


def allow_tracing() -> None:
    """Let other processes of this user trace this one, and those that are forked from it.

    Yama, where it is in force, lets only a parent trace: py-spy is a child. Each process must say
    so for itself. Without Yama, the call does nothing.
    """
    libc = ctypes.CDLL(None)

    def allow() -> None:
        libc.prctl(_PR_SET_PTRACER, _PR_SET_PTRACER_ANY, 0, 0, 0)

    allow()
    os.register_at_fork(after_in_child=allow)


class _Trace(Protocol):
    @property
    def tool(self) -> Tool: ...

    async def stop(self) -> None:
        """Raises: ProfilerFailed; EngineDead."""
        ...


class _TorchTrace:
    tool: Tool = "torch"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def start(self, max_iterations: int) -> None:
        await self._engine.start_profile(max_iterations)

    async def stop(self) -> None:
        await self._engine.stop_profile()


class _PySpyTrace:
    """py-spy as a child of the server, which it traces, with the server's other children."""

    tool: Tool = "py-spy"

    def __init__(self, process: Process) -> None:
        self._process = process
        self._end = asyncio.create_task(process.communicate())  # or a full pipe would stop it

    @classmethod
    async def start(cls, directory: Path) -> "_PySpyTrace":
        path = directory / f"server_{os.getpid()}.{time.time_ns()}.speedscope.json"
        process = await _run_py_spy(path)
        try:
            async with asyncio.timeout(_ATTACH_TIMEOUT_S):
                await _wait_until_sampling(process)
        except TimeoutError:
            await _kill(process)
            raise _failed(f"py-spy has not begun within {_ATTACH_TIMEOUT_S} s") from None
        except BaseException:
            await _kill(process)
            raise
        return cls(process)

    async def stop(self) -> None:
        with suppress(ProcessLookupError):  # it has ended by itself
            self._process.send_signal(signal.SIGINT)
        done, _ = await asyncio.wait((self._end,), timeout=_WRITE_TIMEOUT_S)
        if not done:
            await _kill(self._process)
            raise _failed(f"py-spy has not written its trace within {_WRITE_TIMEOUT_S} s")
        said, _ = self._end.result()
        if self._process.returncode != 0:
            raise _failed(f"py-spy has failed: {_shorten(said)}")


async def _run_py_spy(path: Path) -> Process:
    """Raises: ProfilerFailed."""
    command = _find_py_spy()
    if command is None:
        raise _failed("py-spy is not installed; it comes with the extra `bench`")
    options = ("--subprocesses", "--format", "speedscope")
    times = ("--rate", str(_RATE_HZ), "--duration", str(_MAX_SAMPLING_S))
    target = ("--pid", str(os.getpid()), "--output", str(path))
    try:
        return await asyncio.create_subprocess_exec(
            *(command, "record", *options, *times, *target),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
        )
    except OSError as error:
        raise _failed(f"py-spy cannot be run: {error.strerror}") from error


def _find_py_spy() -> str | None:
    beside_python = Path(sys.executable).parent  # is in PATH only if the environment is activated
    return shutil.which("py-spy", path=beside_python) or shutil.which("py-spy")


async def _wait_until_sampling(process: Process) -> None:
    """Raises: ProfilerFailed with py-spy's reason if it ends instead."""
    assert process.stdout is not None
    said = b""
    async for line in process.stdout:
        if b"Sampling process" in line:
            return
        said += line
    raise _failed(f"py-spy cannot trace this server: {_shorten(said)}")


async def _kill(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def _failed(message: str) -> ProfilerFailed:
    return ProfilerFailed(message, "profiler_failed")


def _shorten(said: bytes) -> str:
    """On one line."""
    return " ".join(said.decode(errors="replace").split())[-_MAX_REASON_CHARS:]
