"""The vision cache's namespace of quantised checkpoints."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from multimodal.fingerprint import vision_namespace
from tests.quantised_checkpoints import SPEC, build_quantised
from tests.quantised_kinds import KINDS


def namespace(folder: Path) -> str:
    return vision_namespace(str(folder), None, dtype="auto")


def change(folder: Path, name: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = torch.zeros_like(tensors[name])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("end", ["weight", "weight_scale", "bias"])
def test_each_tensor_of_a_quantised_vision_linear_changes_it(tmp_path: Path, end: str) -> None:
    files = build_quantised(tmp_path, KINDS["w8a8-vision"], SPEC)
    before = namespace(files.folder)
    assert before != namespace(files.reference)
    change(files.folder, f"model.visual.blocks.1.mlp.linear_fc1.{end}")
    assert namespace(files.folder) != before


def test_the_language_half_does_not_change_it(tmp_path: Path) -> None:
    files = build_quantised(tmp_path, KINDS["fp8-dynamic"], SPEC)
    before = namespace(files.folder)
    change(files.folder, "model.language_model.layers.0.mlp.up_proj.weight_scale")
    assert namespace(files.folder) == before
