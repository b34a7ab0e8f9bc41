"""How long until a server answers `/health`: two commands in turn, on the same machine.

    python -m benchmarks.startup \\
        --command '.venv/bin/qwen3vl-serve serve demo --port {port}' \\
        --vs 'STOCK/bin/python -m vllm.entrypoints.openai.api_server --model DIR --port {port} ...'

`{port}` is replaced by a free port. A start counts from the process's creation to the first 200,
which both servers give when the model is loaded. The first round warms the page cache and is left
out. The last line is one JSON document; seconds in all `_s`.
"""

import argparse
import json
import os
import shlex
import statistics
import sys
import time

from benchmarks.servers import Launch, running


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--command", required=True)
    parser.add_argument("--vs", required=True)
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds, after a warm-up")
    parser.add_argument("--timeout-s", type=float, default=600.0)
    arguments = parser.parse_args()
    commands = {"ours": arguments.command, "vs": arguments.vs}
    times: dict[str, list[float]] = {name: [] for name in commands}
    for index in range(arguments.rounds + 1):
        for name, command in commands.items():
            elapsed_s = measure_start(command, arguments.timeout_s)
            print(f"round {index} {name}: {elapsed_s:.1f} s", file=sys.stderr)
            if index > 0:
                times[name].append(elapsed_s)
    medians = {name: statistics.median(values) for name, values in times.items()}
    result = {
        "commands": commands,
        "start_s": times,
        "median_start_s": medians,
        "ratio_vs_to_ours": medians["vs"] / medians["ours"],
        "num_cores": len(os.sched_getaffinity(0)),
    }
    print(json.dumps(result))


def measure_start(command: str, timeout_s: float) -> float:
    """Seconds until the server is ready. Raises: RuntimeError if it ends or takes too long."""
    launch = Launch(shlex.split(command), os.environ)
    started = time.perf_counter()
    with running(launch, timeout_s):
        return time.perf_counter() - started


if __name__ == "__main__":
    main()
