"""Training shows the model exactly what the server will."""

import hashlib
import random
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from demo.batches import ROW_TOKENS, batches, pack
from demo.chat_template import chat_template
from demo.checkpoint import CheckpointSpec, new_model
from demo.embedded import EMBEDDED_CHECKPOINT
from demo.learner import pixel_values, predict
from demo.preprocessing import PREPROCESSOR
from demo.samples import (
    GLYPHS,
    NO_BOX,
    STEPS,
    Layout,
    Sample,
    SampleMaker,
    conversation,
    load_media,
)
from demo.skills import (
    OTHERS,
    SINGLE_PICTURE,
    Maker,
    find_example,
    scenes_example,
    single_example,
)
from demo.vocabulary import demo_tokenizer
from demo.world import Picture, Shape, Text
from multimodal.preprocessor_config import load_preprocessor_config
from server.prompt import PromptRenderer

MAKERS = [*SINGLE_PICTURE, *OTHERS]


@pytest.fixture(scope="module")
def maker() -> SampleMaker:
    return SampleMaker(demo_tokenizer())


@pytest.fixture(scope="module")
def model() -> Any:
    return new_model(CheckpointSpec(is_tied=True), demo_tokenizer()).eval()


def test_labels_say_what_is_where() -> None:
    shape = Shape("star", "blue", 80, 24, 20, (0, 0, 255))
    text = Text("A7", 128, 112, 30, (0, 0, 0), spacing=32)
    picture = Picture(192, 128, (255, 255, 255), (shape,), text)
    _, (seen,) = load_media(picture)
    rows, columns = seen.item.grid_h, seen.item.grid_w
    assert (rows, columns) == (8, 12)
    # rows of tokens, columns of tokens, and the four patches inside
    glyphs = seen.glyphs.reshape(4, 6, 2, 2)
    assert GLYPHS[glyphs[0, 2, 1, 1]] == "star"  # the centre, 80, 24, is patch row 1, column 5
    assert GLYPHS[glyphs[3, 4, 1, 1]] == "A"
    assert GLYPHS[glyphs[3, 5, 1, 1]] == "7"
    assert np.count_nonzero(glyphs) == 3
    boxes = seen.boxes.reshape(4, 6, 4)
    assert boxes[0, 2] == pytest.approx(np.array(shape.box) / [192, 128, 192, 128] * STEPS, abs=0.5)
    assert np.count_nonzero((boxes != NO_BOX).all(axis=-1)) == 1
    assert np.count_nonzero(seen.covers.reshape(4, 6)[:, 2]) == 1


@pytest.mark.parametrize("maker_function", MAKERS, ids=lambda maker: maker.__name__)
def test_samples_fit_a_row_and_ask_something(maker: SampleMaker, maker_function: Maker) -> None:
    for seed in range(10):
        rng = random.Random(seed)
        sample = maker.make(rng, maker_function(rng, False), ROW_TOKENS)
        assert len(sample.token_ids) <= ROW_TOKENS
        assert len(sample.skills) == sample.branches.max()
        assert sample.positions.shape == (3, len(sample.token_ids))
        for branch in range(1, len(sample.skills) + 1):
            assert (sample.weights[sample.branches == branch] > 0).any()


def test_batches_depend_on_seed_and_step_only(maker: SampleMaker) -> None:
    first, second = (next(batches(maker, 3, 2, [900])) for _ in range(2))
    other = next(batches(maker, 4, 2, [900]))
    assert torch.equal(first.token_ids, second.token_ids)
    assert torch.equal(first.patches, second.patches)
    assert not torch.equal(first.token_ids, other.token_ids)


def reference_logits(model: Any, sample: Sample, branch: int) -> torch.Tensor:
    """transformers' own forward pass of one conversation: its positions and its causal mask."""
    is_in = (sample.branches == 0) | (sample.branches == branch)
    token_ids = torch.from_numpy(sample.token_ids[is_in])[None]
    batch = pack([[sample]])
    is_video = sample.items[0].item.modality == "video"
    pad = model.config.video_token_id if is_video else model.config.image_token_id
    names = (
        ("pixel_values_videos", "video_grid_thw")
        if is_video
        else ("pixel_values", "image_grid_thw")
    )
    grids = batch.grids
    if is_video:
        grids = torch.tensor([[len(grids), *grids[0, 1:].tolist()]])
    logits = model(
        input_ids=token_ids,
        mm_token_type_ids=(token_ids == pad).int() * (2 if is_video else 1),
        **dict(zip(names, (pixel_values(batch.patches), grids), strict=True)),
    ).logits[0, :-1]
    return logits[torch.from_numpy(sample.weights[is_in])[1:] > 0]


@torch.no_grad()
@pytest.mark.parametrize("maker_function", [find_example, scenes_example, single_example])
def test_packed_conversations_do_not_see_each_other(
    maker: SampleMaker, model: Any, maker_function: Maker
) -> None:
    rng = random.Random(5)
    other, sample = (maker.make(rng, maker_function(rng, False), 320) for _ in range(2))
    assert len(sample.skills) > 1
    packed = predict(model, pack([[other], [sample]])).logits
    packed = packed[-np.count_nonzero(sample.weights) :]
    alone = [reference_logits(model, sample, k + 1) for k in range(len(sample.skills))]
    assert torch.allclose(packed, torch.cat(alone), atol=1e-4)


@pytest.mark.parametrize("is_thinking", [True, False])
@pytest.mark.parametrize("maker_function", MAKERS, ids=lambda maker: maker.__name__)
def test_the_server_renders_the_same_prompt(
    maker: SampleMaker, maker_function: Maker, is_thinking: bool
) -> None:
    example = maker_function(random.Random(2), False)
    for question in example.questions:
        prompt, _ = maker.render(example, question, Layout(), is_thinking)
        rendered = PromptRenderer(str(EMBEDDED_CHECKPOINT)).render(
            conversation(example, question), thinking=is_thinking, tools=example.tools
        )
        opened = "<think>\n" if is_thinking else ""  # the server opens the block itself
        assert list(rendered) == maker.encode(prompt + opened)


def test_the_shipped_tokenizer_is_the_one_that_is_built() -> None:
    shipped = AutoTokenizer.from_pretrained(EMBEDDED_CHECKPOINT)
    assert shipped.get_vocab() == demo_tokenizer().get_vocab()
    assert shipped.chat_template == chat_template("hybrid")


def test_the_shipped_preprocessor_is_the_one_of_training() -> None:
    assert load_preprocessor_config(str(EMBEDDED_CHECKPOINT)) == PREPROCESSOR


def test_the_readme_states_the_digest_and_size_of_the_weights() -> None:
    weights = EMBEDDED_CHECKPOINT / "model.safetensors"
    readme = (EMBEDDED_CHECKPOINT.parent / "README.md").read_text()
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in readme
    assert weights.stat().st_size < 12_000_000
