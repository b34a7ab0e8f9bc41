"""Quantised checkpoints that the CPU's kernels can run, against what their tensors stand for.

The reference is the dequantised checkpoint in the same engine. Where a quantisation also rounds the
linears' inputs, the reference's inputs are rounded by the test.
"""

import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model_executor.parity import EngineUnderTest, ParityCase, Run, difference
from model_executor.parity_cases import CaseBuilder
from tests.quantised_checkpoints import SPEC, QuantisedCheckpoint, build_quantised, hub_linears
from tests.quantised_kinds import FP8_MAX, KINDS

pytestmark = pytest.mark.slow

NUM_TOKENS = 12
# Weights only: both multiply the same bfloat16 numbers, in kernels that sum in different orders.
# Measured: 0.0103.
MAX_RELATIVE = 0.03
# Rounded inputs: a sum that differs in its last bit can move a number over a rounding boundary, and
# the step is 1/127 (int8) or 1/16 (FP8) of it. Measured: 1e-6 where none is moved, else up to 0.06.
MAX_RELATIVE_ROUNDED = 0.1
# What one wrong linear must at least cost for the comparison to be worth anything.
MIN_BROKEN = 0.2

Rounding = Callable[[torch.Tensor], torch.Tensor]


def int8_rows(x: torch.Tensor) -> torch.Tensor:
    scale = x.abs().amax(dim=-1, keepdim=True) / 127
    return (x / scale).round() * scale


def fp8_rows(x: torch.Tensor) -> torch.Tensor:
    scale = x.abs().amax(dim=-1, keepdim=True) / FP8_MAX
    return (x / scale).to(torch.float8_e4m3fn).float() * scale


ROUNDING: dict[str, Rounding | None] = {
    "w8a8-vision": int8_rows,
    "fp8-dynamic": fp8_rows,
    "awq": None,
    "gptq": None,
    "int4": None,
}


@pytest.fixture(autouse=True)
def _weights_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """With AMX vLLM would round the inputs of 4-bit linears too."""
    monkeypatch.setenv("VLLM_CPU_INT4_W4A8", "0")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], QuantisedCheckpoint]:
    """Name of a kind -> its folders."""

    @cache
    def build(name: str) -> QuantisedCheckpoint:
        return build_quantised(tmp_path_factory.mktemp(name), KINDS[name], SPEC)

    return build


@pytest.fixture(scope="module")
def cases(files: Callable[[str], QuantisedCheckpoint]) -> list[ParityCase]:
    builder = CaseBuilder(str(files("w8a8-vision").reference))
    text = "See <image> then <video> and <image> in order."
    return [builder.build("text", "What is a circle?"), builder.build("mixed", text)]


def run(
    folder: Path,
    rounding: Rounding | None,
    cases: Sequence[ParityCase],
    rounded: frozenset[str] = frozenset(),
) -> list[Run]:
    """Args: rounded: the linears (hub names) whose inputs are rounded here."""
    dtype = "bfloat16" if rounding is None else "float32"
    engine = EngineUnderTest(str(folder), max_model_len=1024, dtype=dtype)
    try:
        if rounding is not None and rounded:
            round_inputs(engine.model, rounding, rounded)
        return [engine.run([case], NUM_TOKENS)[0] for case in cases]
    finally:
        engine.close()


def round_inputs(model: torch.nn.Module, rounding: Rounding, linears: frozenset[str]) -> None:
    from vllm.model_executor.layers.linear import LinearBase

    for path, module in model.named_modules():
        if isinstance(module, LinearBase) and linears.issuperset(hub_linears(path)):
            module.register_forward_pre_hook(lambda _, inputs: (rounding(inputs[0]), *inputs[1:]))


@pytest.fixture(scope="module")
def reference(
    files: Callable[[str], QuantisedCheckpoint], cases: list[ParityCase]
) -> Callable[[str], list[Run]]:
    """Name of a kind -> what its dequantised checkpoint makes of the cases."""

    @cache
    def load(name: str) -> list[Run]:
        checkpoint = files(name)
        return run(checkpoint.reference, ROUNDING[name], cases, checkpoint.quantised)

    return load


@pytest.mark.parametrize("name", ROUNDING)
def test_logits_and_tokens_equal_those_of_the_dequantised_checkpoint(
    name: str,
    files: Callable[[str], QuantisedCheckpoint],
    cases: list[ParityCase],
    reference: Callable[[str], list[Run]],
) -> None:
    rounding = ROUNDING[name]
    runs = run(files(name).folder, rounding, cases)
    for case, ours, expected in zip(cases, runs, reference(name), strict=True):
        found = difference(ours, expected)
        limit = MAX_RELATIVE if rounding is None else MAX_RELATIVE_ROUNDED
        assert found.relative <= limit, f"{case.name}: {found}"
        if case.name == "text":  # with media, a number that was moved can change the choice
            assert found.num_equal_tokens == found.num_tokens, f"{case.name}: {found}"


def swapped_scales(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    names = [f"model.language_model.layers.1.self_attn.{x}_proj.weight_scale" for x in "kv"]
    return dict(zip(names, (tensors[name] for name in reversed(names)), strict=True))


def skipped_linear(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name = "model.language_model.layers.1.self_attn.o_proj.weight_scale"
    return {name: torch.zeros_like(tensors[name])}


def scales_of_other_outputs(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name = "model.visual.blocks.1.mlp.linear_fc1.weight_scale"
    return {name: tensors[name].flip(0).contiguous()}


@pytest.mark.parametrize("change", [swapped_scales, skipped_linear, scales_of_other_outputs])
def test_the_comparison_sees_one_wrong_linear(
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    files: Callable[[str], QuantisedCheckpoint],
    cases: list[ParityCase],
    reference: Callable[[str], list[Run]],
    tmp_path: Path,
) -> None:
    name = "w8a8-vision"
    folder = Path(shutil.copytree(files(name).folder, tmp_path / "broken"))
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | change(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    (broken,) = run(folder, ROUNDING[name], cases[1:])
    assert difference(broken, reference(name)[1]).relative > MIN_BROKEN
