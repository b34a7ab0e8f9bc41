"""The same properties with new examples, and many more of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
_TIMEOUT_S = 1500  # some five minutes on a quiet machine


@pytest.mark.slow
@pytest.mark.timeout(_TIMEOUT_S + 60)
def test_the_properties_hold_for_many_new_examples() -> None:
    command = [sys.executable, "-m", "pytest", str(FOLDER), "-q", "-p", "no:cacheprovider"]
    command += ["--hypothesis-profile", "long", "-m", "not slow", "--timeout", str(_TIMEOUT_S)]
    command += ["--ignore", str(FOLDER / "test_atheris.py"), "-W", "ignore"]
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=_TIMEOUT_S, env={**os.environ}
    )
    print(run.stdout[-20_000:], run.stderr[-2000:])
    assert run.returncode == 0
