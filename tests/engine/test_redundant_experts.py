"""EPLB's redundant experts, which vLLM fills from a fused checkpoint only if its experts are split.

vLLM takes EPLB on GPUs only: here the model is built and loaded as it would be there, not run.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import (
    cleanup_dist_env_and_memory,
    ensure_model_parallel_initialized,
    init_distributed_environment,
)
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.utils.network_utils import get_open_port

from demo.checkpoint import CheckpointSpec
from demo.random_checkpoint import build_checkpoint

_NUM_EXPERTS, _NUM_REDUNDANT = 6, 2


class _AsOnGpu:
    """A platform on which vLLM's configuration takes EPLB."""

    def __init__(self, platform: Any) -> None:
        self._platform = platform

    def __getattr__(self, name: str) -> Any:
        return getattr(self._platform, name)

    def is_cuda_alike(self) -> bool:
        return True


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints") / "moe"
    return build_checkpoint(path, CheckpointSpec(is_moe=True, num_experts=_NUM_EXPERTS))


@pytest.fixture
def model(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    config = _config(checkpoint, monkeypatch)
    address = f"tcp://127.0.0.1:{get_open_port()}"
    try:
        with set_current_vllm_config(config):
            init_distributed_environment(1, 0, address, 0, "gloo")
            ensure_model_parallel_initialized(1, 1)
            yield initialize_model(vllm_config=config)
    finally:
        cleanup_dist_env_and_memory()


def _config(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> VllmConfig:
    import vllm.config.parallel as parallel

    args = EngineArgs(model=str(checkpoint), dtype="float32", enforce_eager=True, max_model_len=512)
    config = args.create_engine_config()
    monkeypatch.setattr(parallel, "current_platform", _AsOnGpu(parallel.current_platform))
    config.parallel_config.tensor_parallel_size = 2  # it wants more than one rank
    config.parallel_config.enable_expert_parallel = True
    config.parallel_config.enable_eplb = True
    config.parallel_config.eplb_config.num_redundant_experts = _NUM_REDUNDANT
    return config


def test_redundant_experts_are_copies(model: Any, checkpoint: Path) -> None:
    for layer in model.moe_layers:
        for name in ("w13_weight", "w2_weight"):
            getattr(layer.routed_experts, name).data.fill_(torch.nan)
    files = sorted(checkpoint.glob("*.safetensors"))
    model.load_weights((name, tensor) for file in files for name, tensor in load_file(file).items())
    assert model.num_logical_experts == _NUM_EXPERTS
    assert model.num_physical_experts == _NUM_EXPERTS + _NUM_REDUNDANT
    assert model.moe_layers
    for layer in model.moe_layers:
        for name in ("w13_weight", "w2_weight"):
            weight = getattr(layer.routed_experts, name)
            assert torch.equal(weight[_NUM_EXPERTS:], weight[:_NUM_REDUNDANT])
            assert not torch.equal(weight[0], weight[1])
