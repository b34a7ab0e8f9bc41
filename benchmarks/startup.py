"""How long until a server is ready: two commands in turn, on the same machine.

    python -m benchmarks.startup \\
        --command '.venv/bin/qwen3vl-serve serve demo --port {port}' \\
        --vs 'env VLLM_CPU_KVCACHE_SPACE=1 STOCK/bin/vllm serve DIR --port {port} --enforce-eager'

`{port}` is replaced by a free port. A start counts from the process's creation to the first 200,
which both servers give when the model is loaded. The first round warms the page cache and is left
out; they take turns in being first. What this process has of `VLLM_` and `QWEN3VL_` variables
reaches neither of the two.
"""

import argparse
import shlex
import sys

from benchmarks.report import Aim, Report, Sample, median_row
from benchmarks.servers import Launch, end_on_sigterm, running

_TIMEOUT_S = 600.0  # stock compiles for minutes by default


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--command", required=True, help="ours")
    parser.add_argument("--vs", required=True, help="stock, or whatever it is compared with")
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds, after a warm-up")
    parser.add_argument("--min-ratio", type=float, help="the aim: so many times sooner")
    arguments = parser.parse_args()
    end_on_sigterm()
    samples = []
    for index in range(arguments.rounds + 1):
        commands = [arguments.command, arguments.vs]
        if index % 2:
            commands.reverse()
        starts_s = {command: measure_start(command) for command in commands}
        ours_s, stock_s = starts_s[arguments.command], starts_s[arguments.vs]
        print(f"round {index}: {ours_s:.1f} s, vs {stock_s:.1f} s", file=sys.stderr)
        samples.append(Sample(ours_s, stock_s))
    report(samples[1:], arguments.min_ratio).print()


def measure_start(command: str, timeout_s: float = _TIMEOUT_S) -> float:
    """Seconds until the server is ready. Raises: RuntimeError if it ends or takes too long."""
    with running(Launch(shlex.split(command)), timeout_s) as server:
        return server.ready_s


def report(samples: list[Sample], min_ratio: float | None) -> Report:
    row = median_row("start to ready", samples, "s")
    aims = [] if min_ratio is None else [Aim("start, times sooner", row.ratio, min_ratio)]
    return Report("startup", [row], aims)


if __name__ == "__main__":
    main()
