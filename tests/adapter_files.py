"""A LoRA adapter's files for a model of two modules, written by hand."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

RANK = 4
Q_PROJ = "model.language_model.layers.0.self_attn.q_proj"
QKV = "model.visual.blocks.0.attn.qkv"
EMBEDDING = "model.language_model.embed_tokens"
TARGETS: Mapping[str, tuple[int, ...]] = {
    Q_PROJ: (32, 16),
    QKV: (24, 8),
    EMBEDDING: (100, 16),
    "lm_head": (100, 16),
}
CONFIG = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "target_modules": ["q_proj"]}


def make_tensors(*modules: str, rank: int = RANK) -> dict[str, torch.Tensor]:
    """Both halves of each module, as peft names them."""
    tensors = {}
    for module in modules or (Q_PROJ,):
        out_size, in_size = TARGETS[module]
        tensors[f"base_model.model.{module}.lora_A.weight"] = torch.ones(rank, in_size)
        tensors[f"base_model.model.{module}.lora_B.weight"] = torch.ones(out_size, rank)
    return tensors


def write_adapter(
    folder: Path, tensors: dict[str, torch.Tensor] | None = None, **config: Any
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))
    save_file(tensors or make_tensors(), folder / "adapter_model.safetensors")
    return folder
