import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from multimodal import fingerprint
from multimodal.fingerprint import vision_namespace

VISION = {
    "model.visual.blocks.0.weight": torch.arange(6.0).view(2, 3),
    "model.visual.patch_embed.bias": torch.ones(4, dtype=torch.bfloat16),
}
LANGUAGE = {"model.language_model.embed.weight": torch.zeros(3, 2)}
CONFIG = {"dtype": "float32", "vision_config": {"depth": 2}, "text_config": {"hidden_size": 8}}
PREPROCESSOR = {"patch_size": 16, "size": {"longest_edge": 1000}}

Tensors = Mapping[str, torch.Tensor]


def write_checkpoint(
    folder: Path,
    *files: Tensors,
    config: Mapping[str, Any] = CONFIG,
    preprocessor: Mapping[str, Any] = PREPROCESSOR,
) -> Path:
    """A checkpoint whose tensors lie in these files; by default all in one."""
    folder.mkdir()
    for number, tensors in enumerate(files or [VISION | LANGUAGE]):
        save_file(dict(tensors), folder / f"model-{number}.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def namespace_of(folder: Path, **runtime: str | int) -> str:
    return vision_namespace(str(folder), None, **(runtime or {"dtype": "auto", "device": "cpu"}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint")


@pytest.fixture
def namespace(folder: Path) -> str:
    return namespace_of(folder)


def with_tensor(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Tensors:
    tensors = VISION | LANGUAGE
    return tensors | {name: change(tensors[name]).contiguous()}


def with_last_changed(tensor: torch.Tensor) -> torch.Tensor:
    changed = tensor.clone()
    changed.view(-1)[-1] += 1
    return changed


def test_a_namespace_is_64_hex_digits(namespace: str) -> None:
    assert len(bytes.fromhex(namespace)) == 32


def test_the_same_checkpoint_has_the_same_namespace(folder: Path, namespace: str) -> None:
    assert namespace_of(folder) == namespace


@pytest.mark.parametrize("name", VISION)
def test_one_number_of_the_vision_weights_changes_it(
    tmp_path: Path, namespace: str, name: str
) -> None:
    changed = write_checkpoint(tmp_path / "changed", with_tensor(name, with_last_changed))
    assert namespace_of(changed) != namespace


@pytest.mark.parametrize(
    "change", [lambda tensor: tensor.view(3, 2), lambda tensor: tensor.view(torch.int32)]
)
def test_equal_bytes_of_another_shape_or_type_change_it(
    tmp_path: Path, namespace: str, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    tensors = with_tensor("model.visual.blocks.0.weight", change)
    assert namespace_of(write_checkpoint(tmp_path / "changed", tensors)) != namespace


def test_another_name_of_a_vision_weight_changes_it(tmp_path: Path, namespace: str) -> None:
    renamed = {name.replace("blocks.0", "blocks.1"): VISION[name] for name in VISION}
    changed = write_checkpoint(tmp_path / "changed", renamed | LANGUAGE)
    assert namespace_of(changed) != namespace


def test_a_missing_vision_weight_changes_it(tmp_path: Path, namespace: str) -> None:
    name = "model.visual.blocks.0.weight"
    changed = write_checkpoint(tmp_path / "changed", {name: VISION[name]} | LANGUAGE)
    assert namespace_of(changed) != namespace


def test_language_weights_do_not_change_it(tmp_path: Path, namespace: str) -> None:
    (name,) = LANGUAGE
    changed = write_checkpoint(tmp_path / "changed", with_tensor(name, with_last_changed))
    assert namespace_of(changed) == namespace
    assert namespace_of(write_checkpoint(tmp_path / "without", VISION)) == namespace


def test_the_name_of_the_folder_does_not_change_it(
    folder: Path, tmp_path: Path, namespace: str
) -> None:
    moved = tmp_path / "elsewhere" / "moved"
    shutil.copytree(folder, moved)
    assert namespace_of(moved) == namespace


def first_visions(count: int) -> Tensors:
    return {name: VISION[name] for name in list(VISION)[:count]}


def last_visions(count: int) -> Tensors:
    return {name: VISION[name] for name in list(VISION)[-count:]}


@pytest.mark.parametrize(
    "files",
    [
        [LANGUAGE, VISION],
        [VISION, LANGUAGE],
        [first_visions(1), last_visions(1) | LANGUAGE],
        [last_visions(1), LANGUAGE, first_visions(1)],
    ],
)
def test_how_weights_are_spread_over_files_does_not_change_it(
    tmp_path: Path, namespace: str, files: list[Tensors]
) -> None:
    assert namespace_of(write_checkpoint(tmp_path / "spread", *files)) == namespace


def test_weights_that_swap_their_values_change_it(tmp_path: Path) -> None:
    values = torch.zeros(3), torch.ones(3)
    folders = [
        write_checkpoint(tmp_path / str(number), dict(zip(names, values, strict=True)))
        for number, names in enumerate([list(VISION), list(VISION)[::-1]])
    ]
    assert namespace_of(folders[0]) != namespace_of(folders[1])


@pytest.mark.parametrize(
    "runtime",
    [
        {"dtype": "bfloat16", "device": "cpu"},
        {"dtype": "auto", "device": "cuda"},
        {"dtype": "auto", "device": "cpu", "tensor_parallel_size": 2},
        {"dtype": "cpu", "device": "auto"},
    ],
)
def test_what_the_model_runs_on_changes_it(
    folder: Path, namespace: str, runtime: dict[str, str | int]
) -> None:
    assert namespace_of(folder, **runtime) != namespace


def test_the_order_of_runtime_facts_does_not_matter(folder: Path, namespace: str) -> None:
    assert namespace_of(folder, device="cpu", dtype="auto") == namespace


@pytest.mark.parametrize(
    "change",
    [
        {"vision_config": {"depth": 3}},
        {"dtype": "bfloat16"},
        {"torch_dtype": "bfloat16"},
        {"quantization_config": {"bits": 4}},
    ],
)
def test_settings_of_the_vision_tower_change_it(
    tmp_path: Path, namespace: str, change: dict[str, Any]
) -> None:
    changed = write_checkpoint(tmp_path / "changed", config=CONFIG | change)
    assert namespace_of(changed) != namespace


def test_other_settings_do_not_change_it(tmp_path: Path, namespace: str) -> None:
    config = CONFIG | {"text_config": {"hidden_size": 9}, "transformers_version": "5"}
    assert namespace_of(write_checkpoint(tmp_path / "changed", config=config)) == namespace


def test_preprocessing_numbers_change_it(tmp_path: Path, namespace: str) -> None:
    preprocessor = PREPROCESSOR | {"image_mean": [0.4, 0.5, 0.5]}
    changed = write_checkpoint(tmp_path / "changed", preprocessor=preprocessor)
    assert namespace_of(changed) != namespace


def test_another_version_of_the_preprocessing_changes_it(
    folder: Path, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "PREPROCESSING_VERSION", 1000)
    assert namespace_of(folder) != namespace


def test_a_checkpoint_without_a_configuration_has_one(folder: Path, namespace: str) -> None:
    for name in ("config.json", "preprocessor_config.json"):
        (folder / name).unlink()
    assert namespace_of(folder) != namespace


def test_a_checkpoint_without_vision_weights_has_none(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "language", LANGUAGE)
    with pytest.raises(FileNotFoundError, match="has no vision weights in safetensors files"):
        namespace_of(folder)


def test_a_checkpoint_in_another_format_has_none(folder: Path) -> None:
    for path in folder.glob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))
    with pytest.raises(FileNotFoundError, match="has no vision weights in safetensors files"):
        namespace_of(folder)
