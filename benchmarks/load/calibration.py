"""How exact the load test's own clock is, measured with a server whose delays are known.

    python -m benchmarks.load.calibration

Both share this machine. An error is what was measured less what the server was told to take, so the
server's own unpunctuality counts as the client's. The last line is one JSON document.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import orjson

from benchmarks.load.record import RequestRecord
from benchmarks.report import machine

_TTFT_S, _ITL_S, _NUM_TOKENS = 0.05, 0.01, 16
_MAX_P50_S, _MAX_P99_S = 0.001, 0.003


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--request-rate", type=float, default=200.0)
    parser.add_argument("--num-requests", type=int, default=4000)
    arguments = parser.parse_args()
    records, cpu_share = measure(arguments.request_rate, arguments.num_requests)
    errors = {name: percentiles(values) for name, values in errors_s(records).items()}
    for name, (p50, p99) in errors.items():
        print(f"{name}: error p50 {p50 * 1e3:.2f} ms, p99 {p99 * 1e3:.2f} ms")
    is_exact = all(p50 <= _MAX_P50_S and p99 <= _MAX_P99_S for p50, p99 in errors.values())
    print(f"{'met' if is_exact else 'NOT MET'}: within 1 ms at p50 and 3 ms at p99")
    document = {
        "machine": machine(),
        "request_rate": arguments.request_rate,
        "num_requests": len(records),
        "client_cpu_share": cpu_share,
        "errors_s": {name: {"p50": p50, "p99": p99} for name, (p50, p99) in errors.items()},
        "is_exact": is_exact,
    }
    print(json.dumps(document))


def measure(request_rate: float, num_requests: int) -> tuple[Sequence[RequestRecord], float]:
    """Records of an open loop, and the client's CPU time by wall time.

    Raises: subprocess.CalledProcessError; ValueError if requests failed.
    """
    server = (
        f"{sys.executable} -m benchmarks.load.fake_server --port {{port}} "
        f"--ttft-ms {_TTFT_S * 1e3} --itl-ms {_ITL_S * 1e3}"
    )
    flags = {
        "--command": server,
        "--request-rate": request_rate,
        "--num-requests": num_requests,
        "--output-tokens": _NUM_TOKENS,
    }
    command = [sys.executable, "-m", "benchmarks.load"]
    command += [str(part) for flag in flags.items() for part in flag]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*command, "--output-dir", folder], stdout=subprocess.PIPE, check=True
        )
        lines = (Path(folder) / "requests.jsonl").read_bytes().splitlines()
    records = [RequestRecord(**orjson.loads(line)) for line in lines]
    if not all(record.is_ok for record in records):
        raise ValueError("requests failed")
    result = orjson.loads(done.stdout.splitlines()[-1])
    return records, result["steps"][0]["summaries"][0]["client"]["cpu_share"]


def errors_s(records: Sequence[RequestRecord]) -> dict[str, list[float]]:
    """Seconds measured more than the server was told to take, by metric."""
    e2e_s = _TTFT_S + (_NUM_TOKENS - 1) * _ITL_S
    return {
        "ttft": [record.ttft_s - _TTFT_S for record in records if record.ttft_s is not None],
        "itl": [gap_s - _ITL_S for record in records for gap_s in record.gaps_s],
        "tpot": [record.tpot_s - _ITL_S for record in records if record.tpot_s is not None],
        "e2e": [record.e2e_s - e2e_s for record in records],
    }


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """p50 and p99 of the size."""
    sizes = np.abs(values)
    return float(np.percentile(sizes, 50)), float(np.percentile(sizes, 99))


if __name__ == "__main__":
    main()
