"""The worker's side of a process that only encodes."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from model_executor.worker_extension import WorkerExtension
from multimodal import vision_worker, vllm_cache_worker
from multimodal.vision_worker import encode_batch, register_encoder
from multimodal.vllm_cache_worker import WorkerCache

KEYS = ["a" * 64, "b" * 64, "c" * 64]


class Tiers:
    """Takes embeddings of some keys."""

    def __init__(self) -> None:
        self.refused: set[str] = set()
        self.stored: dict[str, torch.Tensor] = {}

    def store(self, key: str, embedding: torch.Tensor) -> bool:
        if key not in self.refused:
            self.stored[key] = embedding
        return key not in self.refused


@pytest.fixture(autouse=True)
def _own_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vision_worker, "_encoders", [])
    monkeypatch.setattr(vllm_cache_worker, "get_tensor_model_parallel_rank", lambda: 0)


def encode(
    patches: torch.Tensor, grids: Sequence[tuple[int, int]], lora_int_ids: Sequence[int] | None
) -> list[torch.Tensor]:
    """The mean of each token's patches."""
    means = patches.float().mean(dim=1).view(-1, 4).mean(dim=1, keepdim=True)
    return list(means.split([h * w // 4 for h, w in grids]))


def make_item(key: str, grid: tuple[int, int], value: int, width: int = 768) -> Any:
    return [key, *grid, bytes([value]) * (grid[0] * grid[1] * width)]


@pytest.mark.parametrize("width", [768, 1536])
def test_items_are_encoded_at_once_and_stored_each(width: int) -> None:
    register_encoder(encode)
    tiers: Any = Tiers()
    items = [make_item(KEYS[0], (2, 4), 7, width), make_item(KEYS[1], (4, 4), 9, width)]
    assert WorkerCache(tiers).encode(items) == []
    assert tiers.stored[KEYS[0]].tolist() == [[7.0]] * 2
    assert tiers.stored[KEYS[1]].tolist() == [[9.0]] * 4


def test_keys_that_the_tiers_do_not_take_are_told() -> None:
    register_encoder(encode)
    tiers: Any = Tiers()
    tiers.refused = {KEYS[1]}
    items = [make_item(key, (2, 2), 1) for key in KEYS]
    assert WorkerCache(tiers).encode(items) == [KEYS[1]]
    assert tiers.stored.keys() == {KEYS[0], KEYS[2]}


# ---- graphs


class Model:
    def encoder_kwargs(self, patches: torch.Tensor, grids: Any) -> dict[str, Any]:
        return {"pixel_values": patches, "image_grid_thw": grids}


class Graphs:
    def __init__(self, *, is_captured: bool = True) -> None:
        self._is_captured = is_captured

    def is_captured(self) -> bool:
        return self._is_captured

    def execute(self, mm_kwargs: dict[str, Any]) -> list[torch.Tensor]:
        return [mm_kwargs["pixel_values"]]


class Runner:
    """vLLM's older runner has the graphs itself, the newer one in its encoder."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__ |= attributes

    def get_model(self) -> Model:
        return Model()


def make_worker(runner: Runner) -> WorkerExtension:
    worker = WorkerExtension()
    worker.model_runner = runner
    return worker


@pytest.mark.parametrize("is_newer", [False, True])
def test_graphs_encode_once_they_are_there(is_newer: bool) -> None:
    graphs = Graphs()
    runner = Runner(encoder_cudagraph_manager=graphs)
    if is_newer:
        encoder = Runner(cudagraph_manager=graphs)
        runner = Runner(model_state=Runner(encoder_runner=encoder))
    make_worker(runner).use_vision_graphs()
    patches = torch.zeros(4, 768)
    assert encode_batch(patches, [(2, 2)])[0] is patches


@pytest.mark.parametrize(
    "runner",
    [
        Runner(encoder_cudagraph_manager=None),
        Runner(encoder_cudagraph_manager=Graphs(is_captured=False)),
        Runner(model_state=Runner()),
        Runner(model_state=Runner(encoder_runner=Runner(cudagraph_manager=None))),
    ],
)
def test_without_graphs_the_model_encodes(runner: Runner) -> None:
    register_encoder(encode)
    make_worker(runner).use_vision_graphs()
    assert encode_batch(torch.ones(4, 768), [(2, 2)])[0].tolist() == [[1.0]]
