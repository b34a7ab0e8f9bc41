"""Our model built under a quantisation, with or without the kernels that this machine lacks."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from tests.parity.test_published_sizes import single_process_group
from tests.quantised_checkpoints import SPEC, QuantisedCheckpoint, build_quantised
from tests.quantised_kinds import KINDS

CHOICES = {  # where vLLM would look for a kernel -> what it finds
    "auto_awq.select_wna16_moe_backend": "int_wna16.WNA16MoEBackend.MARLIN",
    "auto_gptq.select_wna16_moe_backend": "int_wna16.WNA16MoEBackend.MARLIN",
    "fp8.select_fp8_moe_backend": "fp8.Fp8MoeBackend.MARLIN",
    "compressed_tensors.compressed_tensors_moe.compressed_tensors_moe_w8a8_fp8"
    ".select_fp8_moe_backend": "fp8.Fp8MoeBackend.MARLIN",
    "compressed_tensors.compressed_tensors_moe.compressed_tensors_moe_wna16"
    ".select_wna16_moe_backend": "int_wna16.WNA16MoEBackend.MARLIN",
    "compressed_tensors.compressed_tensors_moe.compressed_tensors_moe_w8a8_int8"
    ".select_int8_moe_backend": "int8.Int8MoeBackend.TRITON",
    "compressed_tensors.compressed_tensors_moe.compressed_tensors_moe_w4a4_nvfp4"
    ".select_nvfp4_moe_backend": "nvfp4.NvFp4MoeBackend.MARLIN",
}
LAYERS = "vllm.model_executor.layers"


@pytest.fixture(scope="session")
def checkpoint(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, bool], QuantisedCheckpoint]:
    """Name of a kind, whether MoE -> its folders."""

    @cache
    def build(name: str, is_moe: bool) -> QuantisedCheckpoint:
        return build_quantised(
            tmp_path_factory.mktemp(name), KINDS[name], replace(SPEC, is_moe=is_moe)
        )

    return build


@pytest.fixture(scope="module")
def process_group() -> Iterator[None]:
    from vllm.config import VllmConfig, set_current_vllm_config

    with ExitStack() as stack:
        with set_current_vllm_config(VllmConfig()):
            stack.enter_context(single_process_group())
        yield


@pytest.fixture
def build_here(process_group: None) -> Iterator[Callable[..., Any]]:
    """Folder, vLLM's options -> our model, empty; one in a test."""
    from vllm.config import set_current_vllm_config
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader.utils import initialize_model
    from vllm.utils.torch_utils import set_default_torch_dtype

    with ExitStack() as stack:

        def build_model(folder: Path, **options: Any) -> Any:
            vllm_config = EngineArgs(
                str(folder),
                dtype="bfloat16",
                max_model_len=1024,
                enforce_eager=True,
                kv_cache_memory_bytes=2**26,
                **options,
            ).create_engine_config()
            stack.enter_context(set_current_vllm_config(vllm_config))
            stack.enter_context(set_default_torch_dtype(torch.bfloat16))
            return initialize_model(vllm_config=vllm_config)

        yield build_model


@pytest.fixture
def build(build_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Any]:
    """The same, but vLLM finds a kernel for every layer."""
    quantization = f"{LAYERS}.quantization"
    for place, choice in CHOICES.items():
        module, enum, member = choice.split(".")
        backends = getattr(import_module(f"{LAYERS}.fused_moe.oracle.{module}"), enum)
        backend = (backends[member], None)
        monkeypatch.setattr(f"{quantization}.{place}", lambda *_, found=backend, **__: found)
    for place in (
        "fp8.init_fp8_linear_kernel",
        "compressed_tensors.schemes.compressed_tensors_w4a4_nvfp4.init_nvfp4_linear_kernel",
    ):
        monkeypatch.setattr(f"{quantization}.{place}", Mock())
    return build_here
