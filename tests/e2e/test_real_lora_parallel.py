"""LoRA on a model in two processes of a CPU: the answers of one process."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from demo.checkpoint import CheckpointSpec
from demo.random_checkpoint import build_checkpoint
from tests.e2e.real_cache import Reply, ask, picture_part
from tests.e2e.real_media import text
from tests.e2e.real_server import MODEL_NAME, RealServer
from tests.lora_adapters import make_adapter

pytestmark = pytest.mark.slow

_PARTS = {"language": ("language", "vocabulary"), "tower": ("tower",)}
_NAMES = (MODEL_NAME, *_PARTS)
_LAYOUTS: Mapping[str, Mapping[str, Any]] = {
    "tensor": {"tensor_parallel_size": 2},
    "pipeline": {"pipeline_parallel_size": 2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora-parallel")
    model = build_checkpoint(folder / "model", CheckpointSpec(num_layers=6))
    for name, parts in _PARTS.items():
        make_adapter(str(model), folder / name, *parts)
    return folder


@pytest.fixture(scope="module")
def expected(folder: Path, logs: Path) -> list[Reply]:
    with serving(folder, logs, "one") as server:
        return answers(server)


def serving(folder: Path, logs: Path, name: str, **options: Any) -> RealServer:
    return RealServer(
        folder / "model",
        logs / f"lora-parallel-{name}",
        max_model_len=1024,
        enable_lora=True,
        lora_modules=",".join(f"{name}={folder / name}" for name in _PARTS),
        **options,
    )


def answers(server: RealServer) -> list[Reply]:
    return [
        ask(server, [picture_part(seed), text("What is it?")], model=name)
        for name in _NAMES
        for seed in (1, 2)
    ]


@pytest.mark.parametrize("layout", _LAYOUTS)
def test_two_processes_give_the_answers_of_one(
    layout: str, folder: Path, logs: Path, expected: list[Reply]
) -> None:
    with serving(folder, logs, layout, **_LAYOUTS[layout]) as server:
        for _ in range(2):  # the second time, all pictures are known
            for reply, other in zip(answers(server), expected, strict=True):
                reply.assert_same_as(other)
    assert len({reply.logprobs for reply in expected}) == len(expected)
