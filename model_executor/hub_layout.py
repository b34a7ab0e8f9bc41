"""The hub layout of Qwen3-VL checkpoints: which tensors there must be.

Loading holds a checkpoint against it, sizing counts its bytes. It imports neither torch nor vLLM.
"""

from collections.abc import Iterator
from typing import Any

Shape = tuple[int, ...]


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
