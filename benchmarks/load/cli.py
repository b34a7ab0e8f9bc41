"""`qwen3vl-serve bench`."""

import gc
import importlib.metadata
import os
import resource
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
from benchmarks.load.bench import Bench, Findings
from benchmarks.load.bench_error import BenchError
from benchmarks.load.caveats import find_caveats
from benchmarks.load.client import open_session
from benchmarks.load.comparison import compare_results, encode_comparison
from benchmarks.load.live import LiveView
from benchmarks.load.monitor import Monitor
from benchmarks.load.options import BenchOptions
from benchmarks.load.record import RequestRecord
from benchmarks.load.repeat import masked, seed_flag
from benchmarks.load.report import render_report
from benchmarks.load.result import Result, ResultError, encode_result, read_result
from benchmarks.load.server_profile import profiled
from benchmarks.load.source import ConversationSource
from benchmarks.load.table import print_comparison, print_summary
from benchmarks.load.target import LiveTarget, open_target
from benchmarks.report import machine
from benchmarks.servers import end_on_sigterm
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
    """Exit status 1 if a server has answered none of the requests of a load."""
    end_on_sigterm()
    _allow_many_connections()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    for name in ("result.json", "report.html"):  # of an earlier run
        (options.output_dir / name).unlink(missing_ok=True)
    with (
        ConversationSource(Workload(options.workload)) as source,
        (options.output_dir / "requests.jsonl").open("wb") as file,
    ):
        monitor = Monitor(file, LiveView(Console(stderr=True)))
        result, is_whole = _run(options, argv, source, monitor)
    if result.steps:
        measured = [record for record in monitor.records if record.step < len(result.steps)]
        _write(result, measured, options.output_dir)
    if not is_whole:
        return _INTERRUPTED
    return 0 if all(s.totals.answered for step in result.steps for s in step.summaries) else 1


def _write(result: Result, records: Sequence[RequestRecord], folder: Path) -> None:
    document = encode_result(result)
    (folder / "result.json").write_bytes(document)
    (folder / "report.html").write_text(render_report(result, records), encoding="utf-8")
    print_summary(result, sys.stdout)
    print(f"wrote {folder}/report.html, result.json, requests.jsonl", file=sys.stderr)
    print(document.decode())


def _run(
    options: BenchOptions, argv: Sequence[str], source: ConversationSource, monitor: Monitor
) -> tuple[Result, bool]:
    """The result, and whether nobody has interrupted it."""
    api_key = os.environ.get("OPENAI_API_KEY")
    started_at, start_s = datetime.now(UTC), time.perf_counter()
    findings, is_whole = Findings(), True
    with ExitStack() as stack:
        targets = [
            stack.enter_context(open_target(target, options.ready_timeout_s, api_key))
            for target in options.targets
        ]
        with monitor.view.shown():
            try:
                uvloop.run(_bench(options, targets, api_key, source, monitor, findings))
            except (KeyboardInterrupt, SystemExit):
                is_whole = False
        described = [target.describe() for target in targets]
    caveats = [
        *([] if is_whole else ["Interrupted: not all that was asked for was measured."]),
        *findings.traces.failures,
        *source.caveats(),
        *find_caveats(options, described, findings.steps, monitor.records),
    ]
    result = Result(
        started_at=started_at.isoformat(timespec="seconds"),
        duration_s=time.perf_counter() - start_s,
        arguments=masked([*argv, *seed_flag(argv, options.workload.seed)]),
        client_version=importlib.metadata.version("qwen3vl-serve"),
        machine=machine(),
        workload=str(options.workload.dataset or options.workload.name),
        options=_described(options),
        targets=described,
        steps=findings.steps,
        highest=findings.highest,
        warnings=caveats,
        profiles=findings.traces.files,
    )
    return result, is_whole


async def _bench(
    options: BenchOptions,
    targets: Sequence[LiveTarget],
    api_key: str | None,
    source: ConversationSource,
    monitor: Monitor,
    findings: Findings,
) -> None:
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(open_session(api_key))
        bench = Bench(options, targets, session, source, monitor, findings)
        await bench.warm_up()
        for target in targets:
            url = target.info.base_url
            await stack.enter_async_context(
                profiled(session, url, options.profile, findings.traces)
            )
        gc.collect()
        gc.freeze()  # a full collection of what is imported would delay what is measured
        await bench.run()


def _described(options: BenchOptions) -> dict[str, Any]:
    """What decides what is asked, as plain JSON."""
    described = asdict(options.workload) | {"request": asdict(options.request)}
    plain: dict[str, Any] = orjson.loads(orjson.dumps(described, default=str))
    return plain


def _allow_many_connections() -> None:
    """As many file descriptors as the system lets this process have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
