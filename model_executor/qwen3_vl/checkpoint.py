"""The hub layout of Qwen3-VL checkpoints: which tensors there must be, and how ours are named.

Every tensor is held against the layout before it is loaded, so that a foreign checkpoint stops with
the name of the first tensor that does not fit.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from vllm.model_executor.models.utils import WeightsMapper

Shape = tuple[int, ...]
Weights = Iterable[tuple[str, torch.Tensor]]

HUB_TO_VLLM = WeightsMapper(
    orig_to_new_prefix={
        "model.visual.": "visual.",
        "model.language_model.": "language_model.model.",
        "lm_head.": "language_model.lm_head.",
    }
)

_FUSED_EXPERTS = re.compile(r"\.mlp\.experts\.(gate_up_proj|down_proj)$")
_ONE_EXPERT = re.compile(r"\.mlp\.experts\.\d+\.(gate|up|down)_proj\.weight$")


def hub_tensors(config: Any) -> dict[str, Shape]:
    """Names and shapes of an unquantised checkpoint, for a Qwen3VLConfig or Qwen3VLMoeConfig.

    MoE experts are listed fused, in the hub's orientation: (experts, in, out).
    """
    text = config.text_config
    tensors = {f"model.visual.{name}": shape for name, shape in _vision(config.vision_config)}
    tensors["model.language_model.embed_tokens.weight"] = (text.vocab_size, text.hidden_size)
    tensors["model.language_model.norm.weight"] = (text.hidden_size,)
    if not config.tie_word_embeddings:
        tensors["lm_head.weight"] = (text.vocab_size, text.hidden_size)
    for layer in range(text.num_hidden_layers):
        prefix = f"model.language_model.layers.{layer}"
        tensors |= {f"{prefix}.{name}": shape for name, shape in _decoder_layer(text, layer)}
    return tensors


def _linear(name: str, out_size: int, in_size: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (out_size, in_size)
    yield f"{name}.bias", (out_size,)


def _norm(name: str, size: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (size,)
    yield f"{name}.bias", (size,)


def _vision(vision: Any) -> Iterator[tuple[str, Shape]]:
    size = vision.hidden_size
    kernel = (vision.temporal_patch_size, vision.patch_size, vision.patch_size)
    yield "patch_embed.proj.weight", (size, vision.in_channels, *kernel)
    yield "patch_embed.proj.bias", (size,)
    yield "pos_embed.weight", (vision.num_position_embeddings, size)
    for i in range(vision.depth):
        block = f"blocks.{i}"
        yield from _norm(f"{block}.norm1", size)
        yield from _norm(f"{block}.norm2", size)
        yield from _linear(f"{block}.attn.qkv", 3 * size, size)
        yield from _linear(f"{block}.attn.proj", size, size)
        yield from _linear(f"{block}.mlp.linear_fc1", vision.intermediate_size, size)
        yield from _linear(f"{block}.mlp.linear_fc2", size, vision.intermediate_size)
    merged = size * vision.spatial_merge_size**2
    mergers = [("merger", size)]
    mergers += [
        (f"deepstack_merger_list.{i}", merged) for i in range(len(vision.deepstack_visual_indexes))
    ]
    for name, norm_size in mergers:
        yield from _norm(f"{name}.norm", norm_size)
        yield from _linear(f"{name}.linear_fc1", merged, merged)
        yield from _linear(f"{name}.linear_fc2", vision.out_hidden_size, merged)


def _decoder_layer(text: Any, layer: int) -> Iterator[tuple[str, Shape]]:
    hidden = text.hidden_size
    q_size = text.num_attention_heads * text.head_dim
    kv_size = text.num_key_value_heads * text.head_dim
    yield "input_layernorm.weight", (hidden,)
    yield "post_attention_layernorm.weight", (hidden,)
    for name, size in (("q", q_size), ("k", kv_size), ("v", kv_size)):
        yield f"self_attn.{name}_proj.weight", (size, hidden)
    yield "self_attn.o_proj.weight", (hidden, q_size)
    for name in ("q_norm", "k_norm"):
        yield f"self_attn.{name}.weight", (text.head_dim,)
    if is_moe_layer(text, layer):
        experts, size = text.num_experts, text.moe_intermediate_size
        yield "mlp.gate.weight", (experts, hidden)
        yield "mlp.experts.gate_up_proj", (experts, hidden, 2 * size)
        yield "mlp.experts.down_proj", (experts, size, hidden)
    else:
        for name in ("gate_proj", "up_proj"):
            yield f"mlp.{name}.weight", (text.intermediate_size, hidden)
        yield "mlp.down_proj.weight", (hidden, text.intermediate_size)


def is_moe_layer(text: Any, layer: int) -> bool:
    if not getattr(text, "num_experts", 0) or layer in text.mlp_only_layers:
        return False
    step: int = text.decoder_sparse_step
    return (layer + 1) % step == 0


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
    parts = ("down_proj",) if kind == "down_proj" else ("gate_proj", "up_proj")
    return [
        f"{prefix}.{expert}.{part}.weight" for expert in range(text.num_experts) for part in parts
    ]
