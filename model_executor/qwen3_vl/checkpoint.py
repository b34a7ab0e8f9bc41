"""Checkpoints in the hub layout (`model_executor.hub_layout`), and how our tensors are named.

Every tensor is held against the layout before it is loaded, so that a foreign checkpoint stops with
the name of the first tensor that does not fit.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from vllm.model_executor.models.utils import WeightsMapper

from model_executor.hub_layout import Shape, hub_tensors

Weights = Iterable[tuple[str, torch.Tensor]]

HUB_TO_VLLM = WeightsMapper(
    orig_to_new_prefix={
        # no dots at the end: ignore lists of quantised checkpoints may name a whole half
        "model.visual": "visual",
        "model.language_model": "language_model.model",
        "lm_head.": "language_model.lm_head.",  # a dot: the ignore lists' `lm_head` stays
    }
)

_BLOCK_SCALES = "_scale_inv"  # of FP8 experts, one number for each 128 x 128 of the weight
_FUSED_EXPERTS = re.compile(rf"\.mlp\.experts\.(gate_up_proj|down_proj)({_BLOCK_SCALES})?$")
_FUSED_PARTS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
_ONE_EXPERT = re.compile(r"\.mlp\.experts\.\d+\.(gate|up|down)_proj\.weight$")


def checked_weights(
    config: Any, weights: Weights, prefix: str = ""
) -> Iterator[tuple[str, torch.Tensor]]:
    """Pass on a checkpoint's tensors in the hub layout, experts turned to the hub's orientation.

    Args:
        prefix: of the tensors that are wanted; there may be others or not.

    Accepts experts fused in either orientation (the hub's, and the one transformers 5 saves) or one
    by one. Raises: ValueError naming the tensor that is unknown, misshapen, given twice or missing.
    """
    tensors = hub_tensors(config)
    expected = {name: shape for name, shape in tensors.items() if name.startswith(prefix)}
    weights = (named for named in weights if named[0].startswith(prefix))
    seen: set[str] = set()
    for name, tensor in _oriented_experts(config.text_config, expected, weights):
        if name in seen:
            raise ValueError(f"checkpoint holds {name} twice")
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue  # some tied checkpoints carry a copy
        shape = expected.get(name) or _one_expert_shape(config.text_config, name)
        if shape is None:
            raise ValueError(f"checkpoint holds {name}, which is not part of Qwen3-VL's hub layout")
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, the configuration says {shape}"
            )
        seen.add(name)
        yield name, tensor
    missing = _missing(config.text_config, expected, seen)
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"checkpoint lacks {missing[0]}{more}")


def oriented_weights(config: Any, weights: Weights) -> Iterator[tuple[str, torch.Tensor]]:
    """Pass on a quantised checkpoint's tensors, fused experts turned to the hub's orientation.

    The scales of a fused weight's blocks lie as the weight does, which alone shows how.
    """
    shapes = {name: s for name, s in hub_tensors(config).items() if _FUSED_EXPERTS.search(name)}
    scales = {f"{name}{_BLOCK_SCALES}": (shape[0], 1, 1) for name, shape in shapes.items()}
    return _oriented_experts(config.text_config, shapes | scales, weights)


def _oriented_experts(
    text: Any, expected: dict[str, Shape], weights: Weights
) -> Iterator[tuple[str, torch.Tensor]]:
    """Transpose fused experts that come as (experts, out, in).

    A square tensor does not show its orientation; it waits for one that does. Only one of
    gate_up_proj (square if hidden = 2 * size) and down_proj (if hidden = size) can be square.
    """
    is_transposed: bool | None = None
    waiting: list[tuple[str, torch.Tensor]] = []
    for name, tensor in weights:
        if not _FUSED_EXPERTS.search(name) or name not in expected:
            yield name, tensor
            continue
        hub_shape = expected[name]
        if hub_shape[1] == hub_shape[2] and is_transposed is None:
            waiting.append((name, tensor))
            continue
        if hub_shape[1] != hub_shape[2]:
            is_transposed = tuple(tensor.shape) == (hub_shape[0], hub_shape[2], hub_shape[1])
        for item_name, item in [*waiting, (name, tensor)]:
            yield item_name, item.transpose(1, 2) if is_transposed else item
        waiting.clear()
    yield from waiting


def split_experts(weights: Weights) -> Iterator[tuple[str, torch.Tensor]]:
    """Fused experts in the hub's orientation -> one by one, as `down_proj.weight` (hidden, size).

    vLLM fills the places of redundant experts (EPLB) from tensors of single experts only.
    """
    for name, tensor in weights:
        fused = _FUSED_EXPERTS.search(name)
        if fused is None:
            yield name, tensor
            continue
        prefix, kind = name.rpartition(".")[0], f"weight{fused[2] or ''}"
        joined = _FUSED_PARTS[fused[1]]
        for expert, matrix in enumerate(tensor):
            parts = matrix.chunk(len(joined), dim=1)
            for part_name, part in zip(joined, parts, strict=True):
                yield f"{prefix}.{expert}.{part_name}.{kind}", part.t()


def _one_expert_shape(text: Any, name: str) -> Shape | None:
    match = _ONE_EXPERT.search(name)
    if match is None or not getattr(text, "num_experts", 0):
        return None
    size, hidden = text.moe_intermediate_size, text.hidden_size
    return (hidden, size) if match.group(1) == "down" else (size, hidden)


def _missing(text: Any, expected: dict[str, Shape], seen: set[str]) -> list[str]:
    missing = []
    for name in expected:
        if name in seen:
            continue
        parts = _expert_parts(text, name) if _FUSED_EXPERTS.search(name) else [name]
        missing += [part for part in parts if part not in seen]
    return missing


def _expert_parts(text: Any, fused_name: str) -> list[str]:
    prefix, _, kind = fused_name.rpartition(".")
    return [
        f"{prefix}.{expert}.{part}.weight"
        for expert in range(text.num_experts)
        for part in _FUSED_PARTS[kind]
    ]
