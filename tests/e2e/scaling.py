"""Ray and a router, which are in a folder of their own: `make .venv-scaling/.installed`."""

import os
import socket
import sys
from pathlib import Path

import pytest

_FOLDER = Path(__file__).parents[2] / ".venv-scaling"

needs_scaling = pytest.mark.skipif(
    not (_FOLDER / ".installed").exists(),
    reason="no Ray and no router: make .venv-scaling/.installed",
)


def python_path(*others: Path) -> str:
    """`PYTHONPATH` with them, after what it holds already."""
    before = os.environ.get("PYTHONPATH")
    return os.pathsep.join([*([before] if before else []), str(_FOLDER), *map(str, others)])


def ray_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ray.scripts.scripts", *arguments]


def router_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "vllm_router.launch_router", *arguments]


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
