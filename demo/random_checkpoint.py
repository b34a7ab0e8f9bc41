"""Tiny Qwen3-VL checkpoints with random weights, for tests and benchmarks."""

import json
from pathlib import Path

import torch

from demo.checkpoint import CheckpointSpec, new_model, save_checkpoint
from demo.tokenizer import build_tokenizer

# Marks a checkpoint whose answers mean nothing; the server says so in its log and in /v1/models.
RANDOM_WEIGHTS_KEY = "qwen3vl_serve_random_weights"


def build_checkpoint(path: Path, spec: CheckpointSpec) -> Path:
    """Write a complete checkpoint (hub layout unless the spec says otherwise) into `path`."""
    tokenizer = build_tokenizer()
    model = new_model(spec, tokenizer).to(spec.dtype)
    _spread_norms(model)
    save_checkpoint(path, spec, model, tokenizer)
    config = json.loads((path / "config.json").read_text())
    config[RANDOM_WEIGHTS_KEY] = True
    (path / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return path


def _spread_norms(model: torch.nn.Module) -> None:
    """Move biases and norm weights off 0 and 1, so that a forgotten one shows."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            noise = torch.randn_like(parameter) * 0.1
            parameter.data = (noise + 1) if "norm" in name and "weight" in name else noise
