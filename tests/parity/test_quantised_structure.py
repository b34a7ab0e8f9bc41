"""Our model built under the published quantisations, and tiny checkpoints of each loaded into it.

Where vLLM refuses only because this machine lacks the kernel, its choice of one is replaced: the
layers, their parameters and the loading are vLLM's own.
"""

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
from safetensors.torch import load_file

from tests.parity.test_published_sizes import single_process_group
from tests.quantised_checkpoints import (
    KINDS,
    SPEC,
    QuantisedCheckpoint,
    build_quantised,
    hub_linears,
    hub_name,
)

Tensors = dict[str, torch.Tensor]

NOT_OUTPUT_FIRST = ("qweight", "qzeros", "scales")  # AWQ's and GPTQ's tensors are (in, out)
CHOICES = {  # where vLLM would look for a kernel -> what it finds
    "auto_awq.select_wna16_moe_backend": "int_wna16.WNA16MoEBackend.MARLIN",
    "auto_gptq.select_wna16_moe_backend": "int_wna16.WNA16MoEBackend.MARLIN",
    "compressed_tensors.compressed_tensors_moe.compressed_tensors_moe_wna16"
    ".select_wna16_moe_backend": "int_wna16.WNA16MoEBackend.MARLIN",
    "compressed_tensors.compressed_tensors_moe.compressed_tensors_moe_w8a8_int8"
    ".select_int8_moe_backend": "int8.Int8MoeBackend.TRITON",
    "compressed_tensors.compressed_tensors_moe.compressed_tensors_moe_w4a4_nvfp4"
    ".select_nvfp4_moe_backend": "nvfp4.NvFp4MoeBackend.MARLIN",
}
LAYERS = "vllm.model_executor.layers"


@pytest.fixture
def any_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let vLLM build every layer."""
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


@pytest.fixture(scope="module")
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


@pytest.fixture
def build(any_kernel: None) -> Iterator[Callable[[Path], Any]]:
    """Folder -> our model, empty; one in a test."""
    from vllm.config import set_current_vllm_config
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader.utils import initialize_model
    from vllm.utils.torch_utils import set_default_torch_dtype

    with ExitStack() as stack:

        def build_model(folder: Path) -> Any:
            vllm_config = EngineArgs(
                str(folder),
                dtype="bfloat16",
                max_model_len=1024,
                enforce_eager=True,
                kv_cache_memory_bytes=2**26,
            ).create_engine_config()
            stack.enter_context(set_current_vllm_config(vllm_config))
            stack.enter_context(single_process_group())
            stack.enter_context(set_default_torch_dtype(torch.bfloat16))
            return initialize_model(vllm_config=vllm_config)

        yield build_model


def tensors_of(checkpoint: QuantisedCheckpoint) -> Tensors:
    return load_file(checkpoint.folder / "model.safetensors")


def linears_of(model: Any, is_fused: bool) -> dict[str, bool]:
    """The hub's name of every linear -> whether vLLM holds it quantised."""
    from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts
    from vllm.model_executor.layers.linear import LinearBase
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    found: dict[str, bool] = {}
    for path, module in model.named_modules():
        if isinstance(module, (LinearBase, ParallelLMHead, RoutedExperts)):
            is_quantised = not type(module.quant_method).__name__.startswith("Unquantized")
            experts = isinstance(module, RoutedExperts)
            names = expert_parts(path, is_fused) if experts else hub_linears(path)
            found |= dict.fromkeys(names, is_quantised)
    return found


def expert_parts(path: str, is_fused: bool, joined: str = "w13 w2") -> list[str]:
    experts = hub_name(path).removesuffix(".routed_experts")
    if is_fused:
        names = {"w13": ["gate_up_proj"], "w2": ["down_proj"]}
        return [f"{experts}.{name}" for part in joined.split() for name in names[part]]
    names = {"w13": ["gate_proj", "up_proj"], "w2": ["down_proj"]}
    return [
        f"{experts}.{expert}.{name}"
        for expert in range(SPEC.num_experts)
        for part in joined.split()
        for name in names[part]
    ]


@pytest.mark.parametrize("is_moe", [False, True], ids=["dense", "moe"])
@pytest.mark.parametrize("name", KINDS)
def test_all_but_the_ignored_is_quantised_and_loaded_as_the_file_holds_it(
    name: str,
    is_moe: bool,
    checkpoint: Callable[[str, bool], QuantisedCheckpoint],
    build: Callable[[Path], Any],
) -> None:
    files, is_fused = checkpoint(name, is_moe), KINDS[name].has_fused_experts
    model = build(files.folder)
    linears = linears_of(model, is_fused)
    assert {linear for linear, is_quantised in linears.items() if is_quantised} == files.quantised
    assert {linear for linear, is_quantised in linears.items() if not is_quantised} == files.ignored
    for parameter in model.parameters():  # what no tensor brings must not fit by chance
        parameter.data.view(-1).view(torch.uint8).fill_(0x55)
    tensors = tensors_of(files)
    loaded = model.load_weights(iter(tensors.items()))
    for path, parameter in model.named_parameters():
        if may_be_absent(path):
            continue
        assert path in loaded
        if not path.startswith("visual.patch_embed.") and not path.endswith("weight_shape"):
            expected = content(path, tensors, is_fused).to(parameter.dtype)
            assert torch.equal(parameter.float().flatten(), expected.float().flatten()), path


def may_be_absent(path: str) -> bool:
    """Scales of a quantised KV cache, and the experts' biases that vLLM has for GPTQ."""
    return ".self_attn.attn." in path or path.endswith((".w13_bias", ".w2_bias"))


def content(path: str, tensors: Tensors, is_fused: bool) -> torch.Tensor:
    module, _, leaf = path.rpartition(".")
    if not module.endswith(".routed_experts"):
        names = [f"{part}.{leaf}" for part in hub_linears(module)]
        return torch.cat([tensors[name] for name in names], dim=int(leaf in NOT_OUTPUT_FIRST))
    joined, _, kind = leaf.partition("_")
    names = expert_parts(module, is_fused, joined)
    if is_fused:
        return tensors[names[0] + kind.removeprefix("weight")].transpose(1, 2)
    matrices = [tensors[f"{name}.{kind}"] for name in names]
    if joined == "w13":
        dim = int(kind in NOT_OUTPUT_FIRST)
        pairs = zip(matrices[::2], matrices[1::2], strict=True)
        matrices = [torch.cat(pair, dim=dim) for pair in pairs]
    return torch.stack(matrices)
