"""M-RoPE as in transformers: positions of any interleaving, rotations up to a million."""

import random

import pytest
import torch
from transformers import Qwen3VLConfig, Qwen3VLModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLTextRotaryEmbedding,
    apply_rotary_pos_emb,
)

from model_executor.qwen3_vl.language import extend_rotary_table
from multimodal.mrope import mrope_positions

MERGE = 2
NUM_INTERLEAVINGS = 200
LONG_CONTEXT = 262_144

Segment = tuple[str, int, int, int]  # "text", length; "image", h, w; "video", t, h, w (LLM tokens)


@pytest.fixture(scope="module")
def reference() -> Qwen3VLModel:
    config = Qwen3VLConfig(
        text_config={"num_hidden_layers": 1, "hidden_size": 64, "vocab_size": 128},
        vision_config={"depth": 1, "hidden_size": 32, "deepstack_visual_indexes": [0]},
    )
    with torch.device("meta"):
        return Qwen3VLModel(config)


def random_segments(draw: random.Random) -> list[Segment]:
    segments: list[Segment] = [("text", draw.randint(1, 40), 0, 0)]
    for _ in range(draw.randint(0, 8)):
        kind = draw.choice(["image", "video"])
        t = 1 if kind == "image" else draw.randint(1, 6)
        segments.append((kind, t, draw.randint(1, 24), draw.randint(1, 24)))
        segments.append(("text", draw.randint(1, 60), 0, 0))
    return segments


def check(segments: list[Segment], reference: Qwen3VLModel) -> None:
    """Lay the segments out as the prompt does: timestamps and markers between temporal patches."""
    kinds: list[int] = []
    placed: list[tuple[int, int, int]] = []
    grids: dict[str, list[list[int]]] = {"image": [], "video": []}
    for kind, t, h, w in segments:
        if kind == "text":
            kinds += [0] * t
            continue
        grids[kind].append([t, h * MERGE, w * MERGE])
        for _ in range(t):
            kinds += [0] * 5 if kind == "video" else []
            placed.append((len(kinds), h, w))
            kinds += [1 if kind == "image" else 2] * (h * w)
            kinds += [0]
    expected, delta = reference.get_rope_index(
        torch.zeros(1, len(kinds), dtype=torch.int64),
        torch.tensor([kinds]),
        torch.tensor(grids["image"]) if grids["image"] else None,
        torch.tensor(grids["video"]) if grids["video"] else None,
    )
    positions, our_delta = mrope_positions(len(kinds), placed)
    assert torch.equal(positions, expected[:, 0])
    assert our_delta == int(delta)


def test_positions_equal_transformers_for_random_interleavings(reference: Qwen3VLModel) -> None:
    draw = random.Random(0)
    for _ in range(NUM_INTERLEAVINGS):
        check(random_segments(draw), reference)


def test_positions_equal_transformers_at_the_full_context(reference: Qwen3VLModel) -> None:
    segments: list[Segment] = [("text", 10_000, 0, 0), ("video", 100, 32, 32)]
    segments += [("image", 1, 90, 120), ("text", 100, 0, 0)] * 10
    num_tokens = 10_000 + 100 * (1024 + 6) + 10 * (90 * 120 + 101)
    segments.append(("text", LONG_CONTEXT - num_tokens, 0, 0))
    check(segments, reference)


@pytest.mark.parametrize(
    ("yarn_factor", "max_model_len"), [(None, 262_144), (2.0, 524_288), (3.0, 1_000_000)]
)
def test_rotations_equal_transformers_up_to_the_last_position(
    yarn_factor: float | None, max_model_len: int
) -> None:
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.rotary_embedding import get_rope

    rope: dict[str, object] = {
        "rope_type": "default",
        "rope_theta": 5_000_000.0,
        "mrope_section": [24, 20, 20],
        "mrope_interleaved": True,
    }
    if yarn_factor is not None:
        rope |= {
            "rope_type": "yarn",
            "factor": yarn_factor,
            "original_max_position_embeddings": 262_144,
        }
    config = Qwen3VLConfig(
        text_config={
            "rope_parameters": rope,
            "max_position_embeddings": int(262_144 * (yarn_factor or 1)),
            "head_dim": 128,
        }
    ).text_config
    positions = torch.randint(0, max_model_len, (3, 64), generator=torch.Generator().manual_seed(0))
    positions[:, :2] = torch.tensor([[0, max_model_len - 1]] * 3)
    heads = torch.randn(2, 64, 128, generator=torch.Generator().manual_seed(1))
    cos, sin = Qwen3VLTextRotaryEmbedding(config)(heads, positions.unsqueeze(1))
    expected, _ = apply_rotary_pos_emb(heads[None, :1], heads[None, 1:], cos, sin)
    with set_current_vllm_config(VllmConfig()):
        rotary = get_rope(
            128,
            max_position=config.max_position_embeddings,
            rope_parameters=config.rope_parameters,
            dtype=torch.float32,
            mrope_positions_factor=1,
        )
        extend_rotary_table(rotary, max_model_len)
        ours, _ = rotary(positions, heads[0].clone(), heads[1].clone())
    # float32 angles of up to 1e6 radians carry an error of about 0.06 / 2
    torch.testing.assert_close(ours, expected[0, 0], atol=2e-3, rtol=0)
