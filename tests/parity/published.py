"""The six published configurations, as transformers' configuration classes."""

from transformers import Qwen3VLConfig, Qwen3VLMoeConfig

from model_executor.sizing.published import PUBLISHED_SIZES, published_config

PUBLISHED = PUBLISHED_SIZES


def transformers_config(size: str) -> Qwen3VLConfig | Qwen3VLMoeConfig:
    config = published_config(size)
    is_moe = "num_experts" in config["text_config"]
    return (Qwen3VLMoeConfig if is_moe else Qwen3VLConfig)(**config)
