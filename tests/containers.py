"""Docker Compose and hadolint, in a folder of their own: `make .venv-containers/.installed`."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
COMPOSE = ROOT / ".venv-containers" / "docker-compose"
HADOLINT = ROOT / ".venv-containers" / "hadolint"

needs_containers = pytest.mark.skipif(
    not (COMPOSE.exists() and HADOLINT.exists()),
    reason="no Docker Compose and no hadolint: make .venv-containers/.installed",
)


def compose_config(
    *files: Path, profiles: tuple[str, ...] = (), variables: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The files as Docker Compose understands them, held against its schema of the specification.

    Raises: AssertionError with what it says of files that are not valid.
    """
    arguments = [part for file in files for part in ("--file", str(file))]
    arguments += [part for profile in profiles for part in ("--profile", profile)]
    done = subprocess.run(
        [COMPOSE, *arguments, "config", "--format", "json"],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], **(variables or {})},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", done.stderr  # warnings, of variables that are not set
    config: dict[str, Any] = json.loads(done.stdout)
    return config
