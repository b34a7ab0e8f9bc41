"""One soak: a server of its own, requests, samples beside them."""

import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from benchmarks.client import MODEL_NAME
from benchmarks.load.scrape import scrape
from benchmarks.servers import Launch, running
from benchmarks.soak.client import SoakClient
from benchmarks.soak.kinds import Kinds
from benchmarks.soak.sample import Sample, folder_bytes, measure_uses

_MIB = 1024**2
_SETTLE_S = 5.0  # what the last requests have left behind is then gone
_IN_FLIGHT = "qwen3vl_requests_in_flight"
_SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class SoakOptions:
    """`interval_s`: between samples."""

    num_requests: int = 20_000
    concurrency: int = 16
    interval_s: float = 3.0
    seed: int = 0
    api_workers: int = 1


@dataclass(slots=True)
class SoakRun:
    """What was seen. `counts` and `unexpected`: see `SoakClient`."""

    seconds: float
    samples: list[Sample] = field(default_factory=list)
    counts: Mapping[str, int] = field(default_factory=dict)
    unexpected: Mapping[str, int] = field(default_factory=dict)


def run_soak(options: SoakOptions) -> SoakRun:
    """Raises: RuntimeError if the server does not start."""
    with _cache_folders() as folders, running(_launch(options, folders)) as server:
        return asyncio.run(_run(options, server.base_url, server.pid, folders))


async def _run(
    options: SoakOptions, base_url: str, pid: int, folders: Mapping[str, Path]
) -> SoakRun:
    kinds = Kinds(options.seed)
    client = SoakClient(base_url, kinds, options.num_requests, options.concurrency)
    started_s, run = time.perf_counter(), SoakRun(0.0)
    async with aiohttp.ClientSession() as session:

        async def sample() -> None:
            uses = await asyncio.to_thread(measure_uses, pid)
            sizes = {n: await asyncio.to_thread(folder_bytes, f) for n, f in folders.items()}
            in_flight = (await scrape(session, base_url)).get(_IN_FLIGHT)
            elapsed_s = time.perf_counter() - started_s
            run.samples.append(Sample(elapsed_s, client.num_ended, uses, sizes, in_flight))

        sending = asyncio.create_task(client.run())
        while not sending.done():
            await sample()
            await asyncio.wait((sending,), timeout=options.interval_s)
        await sending
        run.seconds = time.perf_counter() - started_s
        await asyncio.sleep(_SETTLE_S)
        await sample()
    run.counts, run.unexpected = client.counts, client.unexpected
    return run


@contextmanager
def _cache_folders() -> Iterator[dict[str, Path]]:
    """Of the two tiers."""
    with (
        tempfile.TemporaryDirectory(prefix="soak-", dir=_SHARED_MEMORY) as host,
        tempfile.TemporaryDirectory(prefix="soak-") as disk,
    ):
        yield {"host": Path(host), "disk": Path(disk)}


def _launch(options: SoakOptions, folders: Mapping[str, Path]) -> Launch:
    """Our server, with caches so small that all of them evict all the time."""
    flags = {
        "served-model-name": MODEL_NAME,
        "port": "{port}",
        "max-model-len": 1024,
        "max-num-seqs": 16,
        "kv-cache-bytes": 64 * _MIB,
        "host-dir": folders["host"],
        "host-bytes": 4 * _MIB,
        "disk-dir": folders["disk"],
        "disk-bytes": 8 * _MIB,
        "store-max-bytes": _MIB,
        "api-workers": options.api_workers,
        "log-level": "warning",
    }
    parts = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    variables = {
        "HF_HUB_OFFLINE": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "VLLM_XGRAMMAR_CACHE_MB": "4",  # of compiled grammars; 512 by default
    }
    program = str(Path(sys.executable).with_name("qwen3vl-serve"))
    return Launch([program, "serve", "demo", *parts], variables)
