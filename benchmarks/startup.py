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
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

_POLL_INTERVAL_S = 0.05
_END_TIMEOUT_S = 60.0


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
    port = _free_port()
    started = time.perf_counter()
    with _running(command.replace("{port}", str(port))) as process:
        while not _is_healthy(f"http://127.0.0.1:{port}/health"):
            if process.poll() is not None:
                raise RuntimeError(f"ended with status {process.returncode}: {command}")
            if time.perf_counter() - started > timeout_s:
                raise RuntimeError(f"not ready after {timeout_s:g} s: {command}")
            time.sleep(_POLL_INTERVAL_S)
        return time.perf_counter() - started


@contextmanager
def _running(command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a process group of its own, which is ended as a whole."""
    process = subprocess.Popen(
        shlex.split(command),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_END_TIMEOUT_S)
        finally:
            _kill_group(process.pid)


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # all of it has ended


def _is_healthy(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1.0, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
