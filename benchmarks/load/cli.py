"""`qwen3vl-serve bench`."""

import gc
import importlib.metadata
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import uvloop
from rich.console import Console

from benchmarks.load.arguments import parse_arguments
from benchmarks.load.bench import Bench
from benchmarks.load.bench_error import BenchError
from benchmarks.load.caveats import find_caveats
from benchmarks.load.client import open_session
from benchmarks.load.comparison import compare_results, encode_comparison
from benchmarks.load.live import LiveView
from benchmarks.load.monitor import Monitor
from benchmarks.load.options import BenchOptions
from benchmarks.load.report import render_report
from benchmarks.load.result import Result, ResultError, encode_result, read_result
from benchmarks.load.server_profile import profiled
from benchmarks.load.source import ConversationSource
from benchmarks.load.table import print_comparison, print_summary
from benchmarks.load.target import LiveTarget, open_target
from benchmarks.report import machine
from benchmarks.workload.error import WorkloadError
from benchmarks.workload.workload import Workload

_INTERRUPTED = 130


def main(argv: Sequence[str]) -> int:
    """Run the command; the return value is the process's exit status."""
    arguments = parse_arguments(argv)
    try:
        if arguments.compare:
            return _compare(*arguments.compare)
        return _measure(arguments.options, argv)
    except (BenchError, ResultError, WorkloadError) as error:
        print(f"qwen3vl-serve bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED


def _compare(first: Path, second: Path) -> int:
    comparison = compare_results(read_result(first), read_result(second))
    print_comparison(comparison, sys.stdout)
    print(encode_comparison(comparison).decode())
    return 0


def _measure(options: BenchOptions, argv: Sequence[str]) -> int:
    """Exit status 1 if a server has answered none of its requests."""
    # A server that was started for the run ends with it.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    _allow_many_connections()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    with (
        ConversationSource(Workload(options.workload)) as source,
        (options.output_dir / "requests.jsonl").open("wb") as file,
    ):
        monitor = Monitor(file, LiveView(Console(stderr=True)))
        result = _run(options, argv, source, monitor)
    (options.output_dir / "result.json").write_bytes(encode_result(result))
    report = render_report(result, monitor.records)
    (options.output_dir / "report.html").write_text(report, encoding="utf-8")
    print_summary(result, sys.stdout)
    print(f"wrote {options.output_dir}/report.html, result.json, requests.jsonl", file=sys.stderr)
    print(encode_result(result).decode())
    is_answered = all(s.totals.answered for step in result.steps for s in step.summaries)
    return 0 if is_answered else 1


def _run(
    options: BenchOptions, argv: Sequence[str], source: ConversationSource, monitor: Monitor
) -> Result:
    api_key = os.environ.get("OPENAI_API_KEY")
    started_at, start_s = datetime.now(UTC), time.perf_counter()
    with ExitStack() as stack:
        targets = [
            stack.enter_context(open_target(target, options.ready_timeout_s, api_key))
            for target in options.targets
        ]
        with monitor.view.shown():
            bench, profiles = uvloop.run(_bench(options, targets, api_key, source, monitor))
        described = [target.describe() for target in targets]
    return Result(
        started_at=started_at.isoformat(timespec="seconds"),
        duration_s=time.perf_counter() - start_s,
        arguments=list(argv),
        client_version=importlib.metadata.version("qwen3vl-serve"),
        machine=machine(),
        workload=str(options.workload.dataset or options.workload.name),
        options=_described(options),
        targets=described,
        steps=bench.steps,
        highest=bench.highest,
        warnings=[
            *source.caveats(),
            *find_caveats(options, described, bench.steps, monitor.records),
        ],
        profiles=profiles,
    )


async def _bench(
    options: BenchOptions,
    targets: Sequence[LiveTarget],
    api_key: str | None,
    source: ConversationSource,
    monitor: Monitor,
) -> tuple[Bench, Sequence[str]]:
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(open_session(api_key))
        bench = Bench(options, targets, session, source, monitor)
        await bench.warm_up()
        traces = [
            await stack.enter_async_context(profiled(session, t.info.base_url, options.profile))
            for t in targets
        ]
        gc.collect()
        gc.freeze()  # a full collection of what is imported would delay what is measured
        await bench.run()
    return bench, [file for files in traces for file in files]


def _described(options: BenchOptions) -> dict[str, Any]:
    """What decides what is asked, as plain JSON."""
    described = asdict(options.workload) | {"request": asdict(options.request)}
    plain: dict[str, Any] = orjson.loads(orjson.dumps(described, default=str))
    return plain


def _allow_many_connections() -> None:
    """As many file descriptors as the system lets this process have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
