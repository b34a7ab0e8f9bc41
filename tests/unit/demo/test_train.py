"""A short run from beginning to end, and one that is interrupted."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file

import demo.train
from demo.train import Recipe, train

RECIPE = Recipe(steps=4, rows=2, warmup_steps=1)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo.train, "LOG_EVERY", 1)
    monkeypatch.setattr(demo.train, "VALIDATE_EVERY", 2)
    monkeypatch.setattr(demo.train, "VALIDATION_BATCHES", 1)


def weights(output: Path) -> dict[str, Any]:
    return load_file(output / "checkpoint" / "model.safetensors")


def test_an_interrupted_run_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(whole, RECIPE, num_workers=0)
    step = demo.train._step

    def interrupted(*arguments: Any) -> Any:
        if arguments[-1] == 3:
            raise KeyboardInterrupt
        return step(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(demo.train, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(broken, RECIPE, num_workers=0)
    train(broken, RECIPE, num_workers=0)
    expected = weights(whole)
    assert all(expected[name].equal(tensor) for name, tensor in weights(broken).items())
    history = json.loads((broken / "history.json").read_text())
    assert [record["step"] for record in history] == [0, 1, 2, 3]
    for name in ("loss.png", "accuracy.png"):
        with Image.open(broken / name) as image:
            assert image.size[0] > 500
