"""Tiny checkpoints in the published quantised formats, each with its dequantised reference.

The weights come from a random checkpoint; the reference holds what the quantised tensors stand for,
in the layout of an unquantised checkpoint.
"""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from demo.checkpoint import CheckpointSpec, ExpertLayout
from demo.random_checkpoint import build_checkpoint
from tests.quantised_kinds import Kind, Tensors

# Language sizes are whole FP8 blocks of 128, also after q, k, v are told apart; no fused expert
# tensor is square.
SPEC = CheckpointSpec(
    hidden_size=256,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
    mrope_section=(12, 10, 10),
    intermediate_size=384,
    vision_hidden_size=128,
    vision_depth=2,
    vision_intermediate_size=256,
    deepstack_visual_indexes=(0, 1),
    num_experts=4,
    moe_intermediate_size=384,
)
_PACKED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
_HUB_NAMES = {
    "visual.": "model.visual.",
    "language_model.model.": "model.language_model.",
    "language_model.lm_head": "lm_head",
}


@dataclass(frozen=True, slots=True)
class QuantisedCheckpoint:
    """Two folders, and the linears (hub names) that are and are not quantised in the first."""

    folder: Path
    reference: Path
    quantised: frozenset[str]
    ignored: frozenset[str]

    @property
    def tensors(self) -> Tensors:
        return load_file(self.folder / "model.safetensors")


def build_quantised(path: Path, kind: Kind, spec: CheckpointSpec) -> QuantisedCheckpoint:
    """Write a quantised checkpoint and its reference into `path`."""
    layout: ExpertLayout = "hub" if kind.has_fused_experts else "per_expert"
    reference = build_checkpoint(path / "reference", replace(spec, expert_layout=layout))
    folder = Path(shutil.copytree(reference, path / "quantised"))
    tensors = _with_spread_rows(load_file(reference / "model.safetensors"))
    ignored = {name for name in tensors if _is_linear(name) and _is_ignored(name, kind)}
    encoded = {
        name: kind.encode(tensor)
        for name, tensor in tensors.items()
        if _is_linear(name) and name not in ignored
    }
    kept = {name: tensor for name, tensor in tensors.items() if name not in encoded}
    quantised, dequantised = dict(kept), dict(kept)
    for name, linear in encoded.items():
        quantised |= {_renamed(name, end): tensor for end, tensor in linear.tensors.items()}
        dequantised[name] = linear.dequantised.contiguous()
    save_file(quantised, folder / "model.safetensors", metadata={"format": "pt"})
    save_file(dequantised, reference / "model.safetensors", metadata={"format": "pt"})
    ignored_modules = sorted(name.removesuffix(".weight") for name in ignored)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = kind.config(ignored_modules)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return QuantisedCheckpoint(
        folder,
        reference,
        frozenset(name.removesuffix(".weight") for name in encoded),
        frozenset(ignored_modules),
    )


def _with_spread_rows(tensors: Tensors) -> Tensors:
    """Multiply each output of a linear by 1/2 to 2, so that one scale cannot pass for another."""
    random = torch.Generator().manual_seed(0)
    spread = dict(tensors)
    for name, tensor in tensors.items():
        if _is_linear(name):
            is_fused = tensor.dim() == 3  # (experts, in, out)
            num_outputs = tensor.shape[-1 if is_fused else 0]
            factors = torch.exp2(torch.rand(num_outputs, generator=random) * 2 - 1)
            spread[name] = tensor * (factors if is_fused else factors[:, None])
    return spread


def _is_linear(name: str) -> bool:
    """By the name of its weight."""
    if name.endswith((".experts.gate_up_proj", ".experts.down_proj")):
        return True
    kinds = ("_proj", "lm_head", "mlp.gate", "attn.qkv", "attn.proj", "linear_fc1", "linear_fc2")
    return name.endswith(tuple(f"{kind}.weight" for kind in kinds))


def _is_ignored(name: str, kind: Kind) -> bool:
    if ".visual." in name:
        return not kind.is_vision_quantised
    return name.endswith(("lm_head.weight", ".mlp.gate.weight"))


def _renamed(name: str, end: str) -> str:
    """The name of a linear's tensor; a fused expert's scale hangs on its weight's name."""
    if name.endswith(".weight"):
        return name.removesuffix("weight") + end
    return name + end.removeprefix("weight")


def hub_name(path: str) -> str:
    for ours, hub in _HUB_NAMES.items():
        if path.startswith(ours):
            return hub + path.removeprefix(ours)
    raise ValueError(f"{path} is not part of the model")


def hub_linears(path: str) -> list[str]:
    """The hub's names of what vLLM has as one linear."""
    parent, _, name = hub_name(path).rpartition(".")
    return [f"{parent}.{part}".lstrip(".") for part in _PACKED.get(name, (name,))]


def hub_experts(path: str, is_fused: bool, joined: str = "w13 w2") -> list[str]:
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
            names = hub_experts(path, is_fused) if experts else hub_linears(path)
            found |= dict.fromkeys(names, is_quantised)
    return found
