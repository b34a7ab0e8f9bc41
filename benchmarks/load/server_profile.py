"""Asks a server for a trace of what it does during a run."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from benchmarks.load.bench_error import BenchError
from benchmarks.load.options import ProfileTool

_TIMEOUT = aiohttp.ClientTimeout(
    total=600
)  # the engine stands still while torch's trace is written
# Torch records some 5,000 events a step of the engine, which fill memory and take 0.3 s to write.
_START: Mapping[ProfileTool, Mapping[str, object]] = {
    "torch": {"tool": "torch", "max_iterations": 50},
    "py-spy": {"tool": "py-spy"},
}


@dataclass(slots=True)
class Traces:
    """Filled when the block ends.

    Attributes:
        files: as the server names them.
        failures: sentences; what was measured is not lost by them.
    """

    files: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@asynccontextmanager
async def profiled(
    session: aiohttp.ClientSession, base_url: str, tool: ProfileTool | None, traces: Traces
) -> AsyncIterator[None]:
    """Trace the block.

    Ours and vLLM's own server have the endpoints, if they were started with a folder for traces.

    Raises: BenchError if the server does not begin.
    """
    if tool is None:
        yield
        return
    started = await _post(session, f"{base_url}/start_profile", _START[tool])
    try:
        yield
    finally:
        try:
            answer = await _post(session, f"{base_url}/stop_profile", {})
        except BenchError as error:
            traces.failures.append(f"There is no trace: {error}")
        else:
            folder = answer.get("directory", "")
            traces.files += [f"{folder}/{name}" for name in answer.get("files", ())]
    if tool != started.get("tool", "torch"):  # vLLM's server has no other, and does not say so
        traces.failures.append(f"{base_url} was traced by torch, as it does not know {tool}.")


async def _post(
    session: aiohttp.ClientSession, url: str, body: Mapping[str, object]
) -> Mapping[str, Any]:
    """The answer's JSON; nothing of an answer without, as vLLM's are."""
    try:
        async with session.post(url, json=body, timeout=_TIMEOUT) as response:
            text = await response.text()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise BenchError(f"{url}: {error or type(error).__name__}") from error
    if response.status != 200:
        raise BenchError(
            f"{url} answers {response.status}: {text[:300]} (a server that can be profiled is "
            "started with --profile-dir, vLLM's own with --profiler-config)"
        )
    try:
        answer = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return answer if isinstance(answer, dict) else {}
