"""Servers under test: found running or started, and what they say of themselves."""

import os
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
import orjson

from benchmarks.load.bench_error import BenchError
from benchmarks.load.options import TargetOptions
from benchmarks.load.repeat import mask
from benchmarks.load.result import MemoryUse, Target
from benchmarks.memory import MemoryWatch, watch_memory
from benchmarks.servers import Launch, running

_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class LiveTarget:
    """`memory` is that of a server which was started for the run."""

    info: Target
    memory: MemoryWatch | None

    def describe(self) -> Target:
        """With the memory as it is now."""
        if self.memory is None:
            return self.info
        use = MemoryUse(self.memory.idle_bytes, self.memory.peak_bytes)
        return replace(self.info, memory=use)


@contextmanager
def open_target(
    options: TargetOptions, ready_timeout_s: float, api_key: str | None
) -> Iterator[LiveTarget]:
    """A server that answers; one that was started is ended again.

    Raises: BenchError if it does not start, cannot be reached, or serves no such model.
    """
    if options.command is None:
        assert options.base_url is not None
        yield LiveTarget(_inspect(options, options.base_url, api_key), None)
        return
    launch = Launch(shlex.split(options.command), os.environ)
    with ExitStack() as stack:
        try:
            server = stack.enter_context(running(launch, ready_timeout_s))
        except (RuntimeError, OSError) as error:
            raise BenchError(f"the server does not start: {error}") from error
        watch = stack.enter_context(watch_memory(server.pid))
        info = _inspect(options, server.base_url, api_key)
        yield LiveTarget(replace(info, ready_s=server.ready_s), watch)


def _inspect(options: TargetOptions, base_url: str, api_key: str | None) -> Target:
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    with httpx.Client(
        base_url=base_url, headers=headers, timeout=_TIMEOUT_S, trust_env=False
    ) as http:
        model = options.model or _first_model(http)
        return Target(
            name=options.name,
            base_url=base_url,
            model=model,
            version=_version(http),
            command=options.command and mask(options.command),
        )


def _first_model(http: httpx.Client) -> str:
    url = f"{http.base_url}/v1/models"
    try:
        response = http.get("/v1/models")
        response.raise_for_status()
        return str(orjson.loads(response.content)["data"][0]["id"])
    except httpx.HTTPError as error:
        raise BenchError(f"{url}: {error or type(error).__name__}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise BenchError(f"{url} names no model; say which with --model") from error


def _version(http: httpx.Client) -> dict[str, Any] | None:
    """None if it is not told."""
    try:
        response = http.get("/version")
        version = orjson.loads(response.content) if response.status_code == 200 else None
    except (httpx.HTTPError, ValueError):
        return None
    return version if isinstance(version, dict) else None
