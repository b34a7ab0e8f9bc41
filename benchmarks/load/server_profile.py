"""Asks a server for a trace of what it does during a run."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
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


@asynccontextmanager
async def profiled(
    session: aiohttp.ClientSession, base_url: str, tool: ProfileTool | None
) -> AsyncIterator[list[str]]:
    """Trace the block. The list is filled at its end with the files, as the server names them.

    Ours and vLLM's own server have the endpoints, if they were started with a folder for traces.

    Raises: BenchError if the server refuses.
    """
    files: list[str] = []
    if tool is None:
        yield files
        return
    await _post(session, f"{base_url}/start_profile", _START[tool])
    try:
        yield files
    finally:
        answer = await _post(session, f"{base_url}/stop_profile", {})
        files += [f"{answer['directory']}/{name}" for name in answer.get("files", ())]


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
    answer: Mapping[str, Any] = orjson.loads(text) if text.startswith("{") else {}
    return answer
