"""Our model built under the published quantisations, and tiny checkpoints of each loaded into it.

Where vLLM refuses only because this machine lacks the kernel, its choice of one is replaced: the
layers, their parameters and the loading are vLLM's own.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.quantised_checkpoints import QuantisedCheckpoint, hub_experts, hub_linears, linears_of
from tests.quantised_kinds import KINDS, Tensors

NOT_OUTPUT_FIRST = ("qweight", "qzeros", "scales")  # AWQ's and GPTQ's tensors are (in, out)


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
    tensors = files.tensors
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
    names = hub_experts(module, is_fused, joined)
    if is_fused:
        return tensors[names[0] + kind.removeprefix("weight")].transpose(1, 2)
    matrices = [tensors[f"{name}.{kind}"] for name in names]
    if joined == "w13":
        dim = int(kind in NOT_OUTPUT_FIRST)
        pairs = zip(matrices[::2], matrices[1::2], strict=True)
        matrices = [torch.cat(pair, dim=dim) for pair in pairs]
    return torch.stack(matrices)
