"""Tiny adapters with random weights, made by `peft` as anyone would make them."""

import re
from pathlib import Path
from typing import Any

import torch

_TARGETS = {
    "language": r".*language_model\.layers\..*(q|k|v|o|gate|up|down)_proj",
    "attention": r".*language_model\.layers\..*(q|k|v|o)_proj",
    "tower": r".*visual\.(blocks|merger|deepstack_merger_list)\..*(qkv|proj|linear_fc1|linear_fc2)",
    "vocabulary": r"lm_head|.*embed_tokens",
}


def make_adapter(
    checkpoint: str,
    folder: Path,
    *parts: str,
    seed: int = 0,
    rank: int = 4,
    std: float = 0.1,
    **options: Any,
) -> Path:
    """Write an adapter of these parts of the model: `language`, `tower`, ... (see `_TARGETS`).

    Args:
        std: of the random weights; a trained model takes more to be changed.
    """
    from peft import LoraConfig, get_peft_model

    model = _load(checkpoint)
    targets = "|".join(f"({_TARGETS[part]})" for part in parts)
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=targets,
        init_lora_weights=False,  # random, where B would be zero
        **options,
    )
    torch.manual_seed(seed)
    adapted = get_peft_model(model, config)
    for name, weights in adapted.named_parameters():
        if re.search(r"lora_(B|embedding_A|embedding_B)", name):
            weights.data.normal_(std=std)
    adapted.save_pretrained(str(folder))
    return folder


def apply_adapter(model: Any, folder: Path) -> None:
    """Put the adapter into transformers' model."""
    from peft import PeftModel

    PeftModel.from_pretrained(model, str(folder))


def _load(checkpoint: str) -> Any:
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32)
