"""The load test against the real server: it takes every workload, and its caches are seen."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.real_server import COMMAND, RealServer

_SMALL = {
    "--image-sizes": "320x240,240x320",
    "--turns": 2,
    "--pages": 1,
    "--questions": 2,
    "--video-seconds": 4,
    "--window-seconds": 2,
    "--stride-seconds": 1,
    "--output-tokens": 4,
    "--input-tokens": 8,
    "--num-warmups": 0,
}


def measure(server: RealServer, folder: Path, **flags: Any) -> Any:
    """The summary of one load."""
    named = {f"--{name.replace('_', '-')}": value for name, value in flags.items()}
    given = {"--base-url": server.base_url, "--output-dir": folder, **_SMALL, **named}
    command = [COMMAND, "bench", *(str(part) for flag in given.items() for part in flag)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (step,) = json.loads(done.stdout.splitlines()[-1])["steps"]
    return step["summaries"][0]


@pytest.mark.parametrize("workload", ["chat", "images", "agent", "documents", "video", "mixed"])
def test_every_request_of_a_workload_is_answered(
    hybrid: RealServer, tmp_path: Path, workload: str
) -> None:
    summary = measure(hybrid, tmp_path, workload=workload, num_requests=6, concurrency=2)
    totals = summary["totals"]
    assert (totals["answered"], totals["errors"]) == (6, {})
    assert totals["completion_tokens"] == 24
    assert totals["prompt_tokens"] > 6 * 8


def test_repeated_images_are_hits_of_the_vision_cache(hybrid: RealServer, tmp_path: Path) -> None:
    flags = {"workload": "reuse", "reuse": 0.75, "num_requests": 16, "concurrency": 1}
    caches = measure(hybrid, tmp_path, **flags)["caches"]
    assert caches["pixels"] == {"hits": 12, "queries": 16}


def test_windows_share_what_they_have_in_common(hybrid: RealServer, tmp_path: Path) -> None:
    """A window of two seconds is two temporal patches, of which its neighbour has one."""
    flags = {"workload": "windows", "num_requests": 3, "concurrency": 1}
    caches = measure(hybrid, tmp_path, **flags)["caches"]
    assert caches["pixels"] == {"hits": 2, "queries": 6}


def test_thinking_is_told_from_the_answer(hybrid: RealServer, tmp_path: Path) -> None:
    for thinking, expected in (("on", 8), ("off", 0)):
        flags = {"workload": "chat", "num_requests": 2, "concurrency": 1, "thinking": thinking}
        totals = measure(hybrid, tmp_path, **flags)["totals"]
        assert totals["reasoning_tokens"] == expected


def test_mlperf_is_asked_as_an_open_loop(hybrid: RealServer, tmp_path: Path) -> None:
    summary = measure(hybrid, tmp_path, workload="mlperf", num_requests=6, request_rate=5)
    assert summary["totals"]["answered"] == 6
    assert [goodput["slo"] for goodput in summary["goodput"]] == ["e2e_p99=12s", "e2e_p99=1.5s"]
