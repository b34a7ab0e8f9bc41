"""Adapters as files: good ones are copied, and what is wrong with others is said."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from server.engine import AdapterRefused
from server.lora_files import CheckedFiles, copy_adapter, find_folder
from tests.adapter_files import (
    CONFIG,
    EMBEDDING,
    Q_PROJ,
    QKV,
    RANK,
    TARGETS,
    make_tensors,
    write_adapter,
)

A, B = (f"base_model.model.{Q_PROJ}.lora_{half}.weight" for half in "AB")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def copied(folder: Path, root: Path | None = None, max_lora_rank: int = 16) -> CheckedFiles:
    copy = folder.with_name(f"{folder.name}-copy")
    copy.mkdir()
    return copy_adapter(folder, copy, TARGETS, max_lora_rank, root)


def refusal(folder: Path, root: Path | None = None) -> str:
    with pytest.raises(AdapterRefused) as refused:
        copied(folder, root)
    return str(refused.value)


def test_the_copy_has_what_the_engine_reads(root: Path) -> None:
    folder = write_adapter(root / "a", rank_pattern={"k_proj": 8}, inference_mode=True)
    assert not copied(folder, root).has_tower
    copy = root / "a-copy"
    assert json.loads((copy / "adapter_config.json").read_text()) == {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": 8,
        "use_rslora": False,
        "rank_pattern": {"k_proj": 8},
        "alpha_pattern": {},
        "bias": "none",
        "target_modules": [],
    }
    weights = "adapter_model.safetensors"
    assert (copy / weights).read_bytes() == (folder / weights).read_bytes()


def test_the_digest_is_that_of_what_the_adapter_does(root: Path) -> None:
    digests = [
        copied(write_adapter(root / "a")).digest,
        copied(write_adapter(root / "b", lora_dropout=0.5)).digest,
        copied(write_adapter(root / "c", lora_alpha=9)).digest,
        copied(write_adapter(root / "d", {A: torch.zeros(4, 16), B: torch.ones(32, 4)})).digest,
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert len(digests[0]) == 64


def test_an_adapter_of_the_vision_tower_is_told(root: Path) -> None:
    assert copied(write_adapter(root / "a", make_tensors(Q_PROJ, QKV))).has_tower


def test_embeddings_are_adapted_with_the_tensors_that_peft_saves(root: Path) -> None:
    tensors = {
        f"base_model.model.{EMBEDDING}.lora_embedding_A": torch.ones(RANK, 100),
        f"base_model.model.{EMBEDDING}.lora_embedding_B": torch.ones(16, RANK),
        f"base_model.model.{EMBEDDING}.base_layer.weight": torch.ones(100, 16),
        "base_model.model.lm_head.base_layer.weight": torch.ones(100, 16),
        **make_tensors("lm_head"),
    }
    copied(write_adapter(root / "a", tensors))


def test_a_module_may_have_a_rank_of_its_own(root: Path) -> None:
    tensors = make_tensors(QKV) | make_tensors(Q_PROJ, rank=8)
    copied(write_adapter(root / "a", tensors, rank_pattern={"q_proj": 8}))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"r": 32}, "rank 32 exceeds `engine.max_lora_rank` (16)"),
        ({"rank_pattern": {"q_proj": 17}}, "rank 17 exceeds"),
        ({"rank_pattern": {"(a+)+$": 4}}, "`rank_pattern`"),
        ({"r": 0}, "`r`"),
        ({"r": "4"}, "`r`"),
        ({"r": None}, "`r`"),
        ({"lora_alpha": "much"}, "`lora_alpha`"),
        ({"peft_type": "IA3"}, "`peft_type`"),
        ({"use_dora": True}, "`use_dora`: is not supported"),
        ({"bias": "all"}, "`bias`"),
        ({"modules_to_save": ["lm_head"]}, "`modules_to_save`: is not supported"),
        ({"init_lora_weights": "pissa"}, "`init_lora_weights`"),
        ({"target_parameters": ["mlp.experts.down_proj"]}, "`target_parameters`"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused(
    root: Path, fields: dict[str, Any], reason: str
) -> None:
    assert reason in refusal(write_adapter(root / "a", **fields))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"r": NaN, "lora_alpha": 1}', "\xff"])
def test_a_config_that_is_no_json_object_is_refused(root: Path, text: str) -> None:
    (write_adapter(root / "a") / "adapter_config.json").write_text(text, encoding="latin-1")
    assert refusal(root / "a").startswith("adapter_config.json: ")


def test_a_huge_config_is_refused(root: Path) -> None:
    config = write_adapter(root / "a") / "adapter_config.json"
    config.write_text(json.dumps(CONFIG) + " " * 2**21)
    assert "exceeds" in refusal(root / "a")


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({A: torch.ones(4, 16)}, "without its other half"),
        ({A: torch.ones(4, 17), B: torch.ones(32, 4)}, "has shape [4, 17]; of this model and"),
        ({A: torch.ones(8, 16), B: torch.ones(32, 8)}, "has shape [8, 16]"),
        ({A: torch.ones(4), B: torch.ones(32, 4)}, "has shape [4]"),
        ({A: torch.full((4, 16), torch.nan), B: torch.ones(32, 4)}, "not finite"),
        ({A: torch.ones(4, 16, dtype=torch.int32), B: torch.ones(32, 4)}, "is of type I32"),
        ({"base_model.model.q_proj.weight": torch.ones(4, 16)}, "is not a LoRA weight"),
        ({f"{A}.magnitude": torch.ones(4)}, "is not a LoRA weight"),
        ({A.removeprefix("base_model.model."): torch.ones(4, 16)}, "is not a LoRA weight"),
        (
            {A.replace("q_proj", "z_proj"): torch.ones(4, 16)},
            "target module `model.language_model.layers.0.self_attn.z_proj` is not one of those",
        ),
        (
            {A.replace("q_proj", "x" * 5000): torch.ones(4, 16)},
            "is not one of those",
        ),
        (
            {f"base_model.model.{EMBEDDING}.base_layer.weight": torch.ones(101, 16)},
            "is not the model's own",
        ),
        ({f"base_model.model.{Q_PROJ}.lora_embedding_A": torch.ones(4, 16)}, "other half"),
        (make_tensors(EMBEDDING), "is not how peft adapts embeddings"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    root: Path, tensors: dict[str, torch.Tensor], reason: str
) -> None:
    message = refusal(write_adapter(root / "a", tensors))
    assert reason in message
    assert len(message) < 500


@pytest.mark.parametrize("num_bytes", [0, 4, 50, -1])
def test_a_torn_file_is_refused(root: Path, num_bytes: int) -> None:
    weights = write_adapter(root / "a") / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:num_bytes])
    assert refusal(root / "a") == "adapter_model.safetensors: it is damaged"


def test_a_file_larger_than_any_adapter_is_not_copied_whole(root: Path) -> None:
    weights = write_adapter(root / "a") / "adapter_model.safetensors"
    os.truncate(weights, 2**36)  # a sparse file
    assert "exceeds" in refusal(root / "a")
    assert (root / "a-copy" / weights.name).stat().st_size < 2**26


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt"])
def test_pickled_weights_are_refused(root: Path, name: str) -> None:
    weights = write_adapter(root / "a") / "adapter_model.safetensors"
    weights.rename(weights.with_name(name))
    assert refusal(root / "a").startswith(f"{name} is pickled")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(root: Path, name: str) -> None:
    (write_adapter(root / "a") / name).unlink()
    assert refusal(root / "a") == f"{name} is missing, or cannot be read"


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_file_elsewhere_is_refused_behind_a_link(root: Path, name: str) -> None:
    elsewhere = write_adapter(root.parent / "elsewhere")
    file = write_adapter(root / "a") / name
    file.unlink()
    file.symlink_to(elsewhere / name)
    assert refusal(root / "a", root) == f"{name} must lie below `engine.lora_dir`"


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_pipes_and_folders_are_no_files(root: Path, name: str) -> None:
    file = write_adapter(root / "a") / name
    file.unlink()
    os.mkfifo(file)
    assert refusal(root / "a", root) == f"{name} is not a file"


@pytest.mark.parametrize(
    "path",
    ["..", ".", "", "/", "../root", "../elsewhere", "a/../../elsewhere", "link", "/etc", "~"],
)
def test_only_folders_below_the_root_are_found(root: Path, path: str) -> None:
    write_adapter(root.parent / "elsewhere")
    (root / "link").symlink_to(root.parent / "elsewhere")
    with pytest.raises(AdapterRefused, match=r"below|no such folder"):
        find_folder(root, path)


@pytest.mark.parametrize("path", ["a\0", "x" * 5000, "loop", "/".join("x" * 3000)])
def test_what_is_no_path_is_refused(root: Path, path: str) -> None:
    (root / "loop").symlink_to(root / "loop")
    with pytest.raises(AdapterRefused):
        find_folder(root, path)


def test_relative_absolute_and_linked_folders_are_found(root: Path) -> None:
    folder = write_adapter(root / "team" / "a")
    (root / "latest").symlink_to(folder)
    for path in ("team/a", "./team/../team/a", str(folder), "latest"):
        assert find_folder(root, path) == folder
