"""What libraries keep of shapes that they have met is bounded: a server meets new ones for ever."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from multimodal.vision_cache import VisionCacheConfig
from server.context_length import ContextLength
from server.settings import EngineSettings
from server.vllm_args import engine_args, set_engine_environment

# Of a layer of the vision tower, with a batch of a new size each time. Prints MiB.
_PROGRAM = """
import psutil, torch

weight = torch.zeros(128, 768, dtype=torch.bfloat16)
process = psutil.Process()
uses = []
with torch.inference_mode():
    for num_patches in range(4, 340):
        torch.nn.functional.linear(torch.ones(num_patches, 768, dtype=torch.bfloat16), weight)
        if num_patches % 100 == 39:
            uses.append(process.memory_full_info().uss / 2**20)
print(uses[-1] - uses[0])
"""
_MAX_GROWTH_MIB = 60  # of 300 shapes; with PyTorch's own bound of 1,024 kernels it is 130


@pytest.fixture
def make_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """Returns: what sets the variables of an engine, in this process, until the test is over."""
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY", "VLLM_RPC_BASE_PATH"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    settings = EngineSettings(profile="cpu")
    cache = VisionCacheConfig("00", str(tmp_path))
    args = engine_args("demo", settings, ContextLength(4096), cache, None, None)
    args.enforce_eager = False  # or compilation would be turned off here
    return lambda: set_engine_environment(settings, args, str(tmp_path))


def test_new_shapes_do_not_add_memory_for_ever(make_environment: Callable[[], None]) -> None:
    make_environment()
    command = [sys.executable, "-c", _PROGRAM]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < _MAX_GROWTH_MIB


def test_who_sets_a_bound_is_obeyed(
    make_environment: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    make_environment()
    assert os.environ["LRU_CACHE_CAPACITY"] == "7"
