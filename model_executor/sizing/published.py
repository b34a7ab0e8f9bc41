"""The published checkpoints' configurations, so that they can be sized without the hub."""

import re
from pathlib import Path
from typing import Any

_ROPE = {
    "rope_type": "default",
    "rope_theta": 5_000_000.0,
    "mrope_section": [24, 20, 20],
    "mrope_interleaved": True,
}
_SMALL_VISION = {
    "depth": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_heads": 16,
    "deepstack_visual_indexes": [5, 11, 17],
}
_LARGE_VISION = {
    "depth": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_heads": 16,
    "deepstack_visual_indexes": [8, 16, 24],
}

# hidden, layers, heads, kv heads, intermediate, (experts, per token, their size), tied, vision
_SIZES: dict[str, tuple[int, int, int, int, int, tuple[int, int, int] | None, bool, Any]] = {
    "2B": (2048, 28, 16, 8, 6144, None, True, _SMALL_VISION),
    "4B": (2560, 36, 32, 8, 9728, None, True, _SMALL_VISION),
    "8B": (4096, 36, 32, 8, 12288, None, False, _LARGE_VISION),
    "32B": (5120, 64, 64, 8, 25600, None, False, _LARGE_VISION),
    "30B-A3B": (2048, 48, 32, 4, 6144, (128, 8, 768), False, _LARGE_VISION),
    "235B-A22B": (4096, 94, 64, 4, 12288, (128, 8, 1536), False, _LARGE_VISION),
}
PUBLISHED_SIZES = tuple(_SIZES)
_NAME = re.compile(r"(?:Qwen/)?Qwen3-VL-(\w+?(?:-A\w+)?)-(?:Instruct|Thinking)(-FP8)?")

# The blocks of the published FP8 checkpoints, and what they leave alone: a name stands for all
# modules below it or, as the router's here, for those of every layer.
FP8_CONFIG: dict[str, Any] = {
    "quant_method": "fp8",
    "activation_scheme": "dynamic",
    "weight_block_size": [128, 128],
    "modules_to_not_convert": ["lm_head", "model.visual", "mlp.gate"],
}


def is_published(name: str) -> bool:
    """Whether this is `Qwen/Qwen3-VL-SIZE-{Instruct,Thinking}[-FP8]`, and no folder here."""
    match = _NAME.fullmatch(name)
    return match is not None and match[1] in _SIZES and not Path(name).is_dir()


def published_checkpoint(name: str) -> dict[str, Any]:
    """`config.json` of a published name."""
    match = _NAME.fullmatch(name)
    assert match is not None
    config = published_config(match[1])
    return config | {"quantization_config": FP8_CONFIG} if match[2] else config


def published_config(size: str) -> dict[str, Any]:
    """The configuration of a size, such as "2B", in the keys of `config.json`."""
    hidden, layers, heads, kv_heads, intermediate, experts, is_tied, vision = _SIZES[size]
    text: dict[str, Any] = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": intermediate,
        "head_dim": 128,
        "vocab_size": 151_936,
        "max_position_embeddings": 262_144,
        "rms_norm_eps": 1e-6,
        "rope_parameters": _ROPE,
        "tie_word_embeddings": is_tied,
    }
    if experts is not None:
        num_experts, num_experts_per_tok, moe_intermediate = experts
        text |= {
            "num_experts": num_experts,
            "num_experts_per_tok": num_experts_per_tok,
            "moe_intermediate_size": moe_intermediate,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }
    kind = "Qwen3VLMoe" if experts else "Qwen3VL"
    return {
        "architectures": [f"{kind}ForConditionalGeneration"],
        "text_config": text,
        "vision_config": vision | {"out_hidden_size": hidden, "num_position_embeddings": 2304},
        "tie_word_embeddings": is_tied,
        "image_token_id": 151_655,
        "video_token_id": 151_656,
        "vision_start_token_id": 151_652,
        "vision_end_token_id": 151_653,
        "dtype": "bfloat16",
    }
