"""The six published configurations, as keyword arguments of transformers' configuration classes."""

from typing import Any

from transformers import Qwen3VLConfig, Qwen3VLMoeConfig

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
_ROPE = {
    "rope_type": "default",
    "rope_theta": 5_000_000.0,
    "mrope_section": [24, 20, 20],
    "mrope_interleaved": True,
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
PUBLISHED = tuple(_SIZES)


def published_config(name: str) -> Qwen3VLConfig | Qwen3VLMoeConfig:
    hidden, layers, heads, kv_heads, intermediate, experts, is_tied, vision = _SIZES[name]
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
    config_class = Qwen3VLConfig
    if experts is not None:
        config_class = Qwen3VLMoeConfig
        num_experts, num_experts_per_tok, moe_intermediate = experts
        text |= {
            "num_experts": num_experts,
            "num_experts_per_tok": num_experts_per_tok,
            "moe_intermediate_size": moe_intermediate,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }
    return config_class(
        text_config=text,
        vision_config=vision | {"out_hidden_size": hidden, "num_position_embeddings": 2304},
        tie_word_embeddings=is_tied,
        image_token_id=151_655,
        video_token_id=151_656,
        vision_start_token_id=151_652,
        vision_end_token_id=151_653,
        architectures=[
            "Qwen3VLMoeForConditionalGeneration" if experts else "Qwen3VLForConditionalGeneration"
        ],
        dtype="bfloat16",
    )
