"""Each of `atheris_targets` for a bounded time, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fault.fuzz.atheris_targets import TARGETS

ROOT = Path(__file__).resolve().parents[3]
MODULE = "tests.fault.fuzz.atheris_targets"
LIMITS = ("-max_len=4096", "-timeout=30", "-rss_limit_mb=3000")
BROKEN = f"""
import {MODULE} as targets

def run(data):
    assert data != b"seed", "it is the seed"

targets.TARGETS["broken"] = lambda: (run, [b"seed"])
targets.main()
"""


def fuzz(folder: Path, *arguments: str, seconds: int) -> str | None:
    """What was found, with the bytes that show it; None if nothing was."""
    command = [sys.executable, "-W", "ignore", *arguments, *LIMITS]
    command += [f"-max_total_time={seconds}", f"-artifact_prefix={folder}/"]
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    run = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds + 300,
    )
    if run.returncode == 0:
        return None
    found = [f"{path.name}: {path.read_bytes()!r}" for path in sorted(folder.iterdir())]
    return "\n".join([*found, run.stdout[-3000:], run.stderr[-3000:]])


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_found_in_a_short_time(target: str, tmp_path: Path) -> None:
    found = fuzz(tmp_path, "-m", MODULE, target, "-seed=1", "-runs=2000", seconds=1)
    assert found is None, found


def test_what_is_found_is_told_with_its_bytes(tmp_path: Path) -> None:
    """Or else the tests above could not fail."""
    found = fuzz(tmp_path, "-c", BROKEN, "broken", "-runs=10", seconds=5)
    assert found is not None and "b'seed'" in found and "it is the seed" in found
