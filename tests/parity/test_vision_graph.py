"""What a CUDA graph of the vision tower computes, run without one: padded buffers, same results.

vLLM's manager keeps the buffers of a capture, and writes each batch into them; here a function
stands for each graph. tests/gpu/test_greedy_tokens.py has real ones.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from model_executor.qwen3_vl.vision import Grid, VisionAttention, VisionTransformer
from model_executor.qwen3_vl.vision_graph import VisionGraphs
from multimodal.vision_worker import encode_clock
from tests.parity.small_tower import (
    IMAGE_WIDTH,
    VIDEO_WIDTH,
    join_group,
    leave_group,
    make_tower,
    random_patches,
)

_MAX_ITEMS = 4
_GRIDS: Sequence[Grid] = ((8, 6), (2, 2), (6, 14), (4, 4), (2, 20), (12, 10))


class Model(nn.Module, VisionGraphs):
    def __init__(self, tower: VisionTransformer) -> None:
        super().__init__()
        self.visual = tower


class VarlenAttention(nn.Module):
    """As FlashAttention: rows behind the last sequence are left alone, here without a meaning."""

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **metadata: Any
    ) -> torch.Tensor:
        bounds, longest = metadata["cu_seqlens"].tolist(), metadata["max_seqlen"].item()
        out = torch.full_like(value, float("nan"))
        for begin, end in pairwise(bounds):
            assert end - begin <= longest
            q, k, v = (x[0, begin:end].transpose(0, 1) for x in (query, key, value))
            out[0, begin:end] = nn.functional.scaled_dot_product_attention(q, k, v).transpose(0, 1)
        return out


def capture_eagerly(
    manager: Any, token_budget: int, path: str = "default", axis_keys: tuple[Any, ...] = ()
) -> None:
    """In place of the manager's own method."""
    model, limits = manager.model, (manager.max_batch_size, manager.max_frames_per_batch)
    inputs = model.prepare_encoder_cudagraph_capture_inputs(
        token_budget, *limits, manager.device, manager.dtype
    ).values
    longest = inputs["max_seqlen"].clone()  # what Python knows is the same in every replay
    output = torch.empty(token_budget, manager.config.out_hidden_size)

    def replay() -> None:
        output.copy_(model.encoder_cudagraph_forward({**inputs, "max_seqlen": longest}))

    manager._get_graph_set(path)[token_budget] = SimpleNamespace(
        input_buffers=inputs, graph=SimpleNamespace(replay=replay), output_buffer=output
    )


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VisionTransformer]:
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    join_group(tmp_path_factory.mktemp("graph") / "meeting", 0, 1)
    tower = make_tower(is_replicated=False)
    tower.attn_backend = AttentionBackendEnum.FLASH_ATTN
    for module in tower.modules():
        if isinstance(module, VisionAttention):
            module.attn = VarlenAttention()
    yield tower
    leave_group()


@pytest.fixture(scope="module")
def model(tower: VisionTransformer) -> Model:
    return Model(tower)


@pytest.fixture(scope="module")
def manager(model: Model) -> Any:
    from vllm.v1.worker.encoder_cudagraph import EncoderCudaGraphManager

    class Manager(EncoderCudaGraphManager):
        _capture_budget_graph = capture_eagerly

    compilation = SimpleNamespace(
        encoder_cudagraph_token_budgets=[8, 32, 64],
        encoder_cudagraph_max_vision_items_per_batch=_MAX_ITEMS,
        encoder_cudagraph_max_frames_per_batch=None,
    )
    multimodal = SimpleNamespace(get_limit_per_prompt=lambda m: 1, mm_encoder_tp_mode="weights")
    config: Any = SimpleNamespace(
        compilation_config=compilation,
        model_config=SimpleNamespace(multimodal_config=multimodal),
        parallel_config=SimpleNamespace(tensor_parallel_size=1),
    )
    manager = Manager(config, torch.device("cpu"), torch.float32, model)
    manager.capture(graph_pool=object())
    return manager


def make_kwargs(modality: str, grids: Sequence[Grid], seed: int = 0) -> Mapping[str, Any]:
    name, width = ("pixel_values", IMAGE_WIDTH)
    if modality == "video":
        name, width = ("pixel_values_videos", VIDEO_WIDTH)
    grid_thw = torch.tensor([(1, *grid) for grid in grids])
    return {name: random_patches(grids, width, seed), f"{modality}_grid_thw": grid_thw}


def expect(model: Model, kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """Each item alone, without any padding."""
    specs = model.get_encoder_cudagraph_item_specs(kwargs)
    one_by_one = [
        model.select_encoder_cudagraph_items(kwargs, [index]) for index in range(len(specs))
    ]
    return [model.encoder_eager_forward(kwargs) for kwargs in one_by_one]


@pytest.mark.parametrize("modality", ["image", "video"])
@pytest.mark.parametrize(
    "grids",
    [_GRIDS[:1], _GRIDS[:3], _GRIDS[2:], _GRIDS, _GRIDS * 2, [(16, 16)], [(2, 2)] * 9],
    ids=lambda grids: str(len(grids)),
)
def test_padded_batches_give_what_each_item_gives_alone(
    manager: Any, model: Model, modality: str, grids: Sequence[Grid]
) -> None:
    hits = manager.graph_hits
    kwargs = make_kwargs(modality, grids)
    with torch.inference_mode():
        found = manager.execute(dict(kwargs))
        expected = expect(model, kwargs)
    assert manager.graph_hits - hits == len(grids)
    for (h, w), ours, alone in zip(grids, found, expected, strict=True):
        assert ours.shape == (h * w // 4, model.visual.out_hidden_size)
        torch.testing.assert_close(ours, alone, rtol=1e-4, atol=1e-4)


def test_a_replay_sees_nothing_of_the_batch_before(manager: Any, model: Model) -> None:
    """A large batch first, then a small one in the same graph."""
    small = make_kwargs("image", [(4, 4), (4, 10)], seed=1)
    with torch.inference_mode():
        before = manager.execute(dict(small))
        manager.execute(dict(make_kwargs("video", [(8, 16)], seed=2)))
        after = manager.execute(dict(small))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_an_item_that_fits_no_graph_is_encoded_without_one(manager: Any, model: Model) -> None:
    kwargs = make_kwargs("image", [(20, 20), (4, 4)])
    misses = manager.graph_misses
    with torch.inference_mode():
        found = manager.execute(dict(kwargs))
        expected = expect(model, kwargs)
    assert manager.graph_misses - misses == 1
    for ours, alone in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, alone, rtol=1e-4, atol=1e-4)


def test_embeddings_of_graphs_have_their_own_storage(manager: Any) -> None:
    with torch.inference_mode():
        found = manager.execute(dict(make_kwargs("image", _GRIDS)))
    assert all(item.untyped_storage().nbytes() == item.nbytes for item in found)


def test_no_items_can_be_selected(model: Model) -> None:
    """Of a rank that gets none."""
    chosen = model.select_encoder_cudagraph_items(make_kwargs("video", _GRIDS), [])
    assert chosen["pixel_values_videos"].shape == (0, VIDEO_WIDTH)
    assert model.get_encoder_cudagraph_item_specs(chosen) == []


def test_the_clock_runs_for_graphs_too(manager: Any) -> None:
    encode_clock.take()
    with torch.inference_mode():
        found = manager.execute(dict(make_kwargs("image", _GRIDS)))
    num_bytes, seconds = encode_clock.take()
    assert num_bytes == sum(item.nbytes for item in found)
    assert seconds > 0


def test_attention_that_cannot_be_captured_is_refused(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    monkeypatch.setattr(model.visual, "attn_backend", AttentionBackendEnum.TORCH_SDPA)
    with pytest.raises(ValueError, match=r"FLASH_ATTN.*the vision tower uses TORCH_SDPA"):
        model.get_encoder_cudagraph_config()


def test_the_largest_budget_is_what_one_step_may_hold(model: Model) -> None:
    def budgets(max_num_batched_tokens: int) -> tuple[int, int]:
        config: Any = SimpleNamespace(
            scheduler_config=SimpleNamespace(max_num_batched_tokens=max_num_batched_tokens),
            model_config=SimpleNamespace(max_model_len=4096),
        )
        return model.get_encoder_cudagraph_budget_range(config)

    assert budgets(2048) == (64, 2048)
    assert budgets(8192) == (64, 4096)
    assert budgets(48) == (48, 48)


def test_our_models_are_those_that_vllm_captures() -> None:
    from vllm.model_executor.models.interfaces import supports_encoder_cudagraph

    from model_executor.qwen3_vl import (
        Qwen3VLForConditionalGeneration,
        Qwen3VLMoeForConditionalGeneration,
    )

    for model_class in (Qwen3VLForConditionalGeneration, Qwen3VLMoeForConditionalGeneration):
        assert supports_encoder_cudagraph(model_class.__new__(model_class))
