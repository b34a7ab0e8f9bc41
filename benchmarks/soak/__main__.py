"""Does a server's memory stay flat over thousands of requests of every kind?

    python -m benchmarks.soak --requests 20000 --out DIR

Starts a server of its own with the demo model and small caches, sends it text, thinking, images,
videos, streams, tools, schemas, errors, clients that leave, break off or dawdle, over all APIs, and
samples its processes. `DIR` gets `samples.csv`, `soak.json` and `soak.svg`. The exit status is 0 if
the growth of each process's own memory, open files and threads behind the warm-up is known to be
below the limits, every answer was the one that it had to be, and no request is left at the end.
"""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.servers import end_on_sigterm
from benchmarks.soak.plot import draw
from benchmarks.soak.sample import Sample
from benchmarks.soak.soak import SoakOptions, SoakRun, run_soak
from benchmarks.soak.verdict import SeriesVerdict, SoakVerdict, judge

_WARM_UP_SHARE = 0.4


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    end_on_sigterm()
    options = SoakOptions(
        num_requests=arguments.requests,
        concurrency=arguments.concurrency,
        interval_s=arguments.interval,
        seed=arguments.seed,
        api_workers=arguments.api_workers,
    )
    run = run_soak(options)
    warm_up = round(options.num_requests * arguments.warm_up)
    verdict = judge(run.samples, warm_up, run.unexpected)
    write(arguments.out, run, verdict, warm_up)
    show(run, verdict)
    return 0 if verdict.holds else 1


def write(folder: Path, run: SoakRun, verdict: SoakVerdict, warm_up_requests: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_samples(folder / "samples.csv", run.samples)
    document = {
        "ended_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(run.seconds, 1),
        "num_requests": run.samples[-1].num_requests,
        "warm_up_requests": warm_up_requests,
        "verdict": verdict.to_json(),
        "counts": dict(sorted(run.counts.items())),
    }
    (folder / "soak.json").write_text(json.dumps(document, indent=2) + "\n")
    draw(run.samples, warm_up_requests, folder / "soak.svg")


def write_samples(path: Path, samples: Sequence[Sample]) -> None:
    """A row for each; a column is empty where a role has no process."""
    rows = [sample.to_row() for sample in samples]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def show(run: SoakRun, verdict: SoakVerdict) -> None:
    count = run.samples[-1].num_requests
    print(f"{count} requests in {run.seconds:.0f} s, {count / run.seconds:.1f} a second")
    for one in verdict.series:
        print(_line(one))
    for name, number in verdict.unexpected.items():
        print(f"unexpected: {name}, {number} times", file=sys.stderr)
    print(f"left at the end: {verdict.num_left}")
    print("holds" if verdict.holds else "does NOT hold")


def _line(one: SeriesVerdict) -> str:
    trend = "too few samples"
    if one.trend is not None:
        bounds = f"{one.trend.low:+.5g} to {one.trend.high:+.5g}"
        trend = f"{one.trend.slope:+.5g} a request ({bounds}, at most {one.limit:g})"
    ends = f"{one.first:.0f} -> {one.last:.0f}, at most {one.largest:.0f}"
    return f"{one.verdict:9}  {one.role} {one.quantity}: {ends}; {trend}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--out", type=Path, required=True, help="folder for what is written")
    parser.add_argument("--concurrency", type=int, default=16, help="requests under way at once")
    parser.add_argument("--interval", type=float, default=3.0, help="seconds between samples")
    parser.add_argument(
        "--warm-up", type=float, default=_WARM_UP_SHARE, help="share of requests not looked at"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--api-workers", type=int, default=1)
    return parser


if __name__ == "__main__":
    sys.exit(main())
