"""The demo model needs every part of the architecture: damage one, and its skill goes."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration

import demo.samples
from demo.batches import ROW_TOKENS, Batch, pack
from demo.embedded import EMBEDDED_CHECKPOINT
from demo.learner import accuracies
from demo.samples import SampleMaker
from demo.skills import (
    Example,
    Maker,
    find_example,
    number_example,
    result_example,
    scenes_example,
    tool_example,
    word_example,
)

NUM_SAMPLES = 48
# What a damage must cost at least, of the share of right answers.
MARGIN = 0.2


@pytest.fixture
def model() -> Any:
    """A fresh one: the tests damage it."""
    return Qwen3VLForConditionalGeneration.from_pretrained(EMBEDDED_CHECKPOINT).float().eval()


@pytest.fixture(scope="module")
def maker() -> SampleMaker:
    return SampleMaker(AutoTokenizer.from_pretrained(EMBEDDED_CHECKPOINT))


def unchanged(example: Example) -> Example:
    return example


def drawn(
    maker: SampleMaker, makes: Sequence[Maker], change: Callable[[Example], Example] = unchanged
) -> Batch:
    """Held-out samples of these kinds in turn, one a row."""
    rng = random.Random("held-out/sensitivity")
    examples = [makes[i % len(makes)](rng, False) for i in range(NUM_SAMPLES)]
    return pack(
        [
            [maker.make(random.Random(i), change(example), ROW_TOKENS)]
            for i, example in enumerate(examples)
        ]
    )


def assert_lost(whole: dict[str, float], damaged: dict[str, float], skills: Sequence[str]) -> None:
    for skill in skills:
        assert whole[skill] - damaged[skill] >= MARGIN, (skill, whole[skill], damaged[skill])


def test_zeroing_deepstack_loses_what_is_seen(model: Any, maker: SampleMaker) -> None:
    batches = [drawn(maker, [word_example])]
    whole = accuracies(model, batches)
    for merger in model.model.visual.deepstack_merger_list:
        torch.nn.init.zeros_(merger.linear_fc2.weight)
        torch.nn.init.zeros_(merger.linear_fc2.bias)
    assert_lost(whole, accuracies(model, batches), ["read_word", "read_word+think"])


def test_mrope_in_sections_loses_where_things_are(
    model: Any, maker: SampleMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = [drawn(maker, [number_example])]
    whole = accuracies(model, batches)

    def in_sections(frequencies: torch.Tensor) -> torch.Tensor:
        """(3, B, L, head_dim / 2): temporal, then height, then width, not taking turns."""
        parts = frequencies.split(model.config.text_config.rope_parameters["mrope_section"], dim=-1)
        angles = torch.cat([part[axis] for axis, part in enumerate(parts)], dim=-1)
        return torch.cat((angles, angles), dim=-1)

    rotary = model.model.language_model.rotary_emb
    monkeypatch.setattr(rotary, "recomposition_frequencies", in_sections)
    assert_lost(whole, accuracies(model, batches), ["read_number", "read_number+think"])


def test_shifted_timestamps_are_what_is_answered(
    model: Any, maker: SampleMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = accuracies(model, [drawn(maker, [scenes_example])])
    load_media = demo.samples.load_media

    def later(media: Any) -> Any:
        loaded, seen = load_media(media)
        seconds = loaded.timestamps
        return replace(loaded, timestamps=(*seconds[1:], seconds[-1] + 1)), seen

    monkeypatch.setattr(demo.samples, "load_media", later)
    assert_lost(whole, accuracies(model, [drawn(maker, [scenes_example])]), ["when", "when+think"])


def test_swapped_pictures_change_which_one_it_is(model: Any, maker: SampleMaker) -> None:
    whole = accuracies(model, [drawn(maker, [find_example])])

    def swapped(example: Example) -> Example:
        first, second, *rest = example.media
        return replace(example, media=(second, first, *rest))

    damaged = accuracies(model, [drawn(maker, [find_example], swapped)])
    assert_lost(whole, damaged, ["find", "nth"])


def test_tools_are_called_and_their_results_told(model: Any, maker: SampleMaker) -> None:
    """The server takes no tools yet, so this is transformers' own forward pass."""
    found = accuracies(model, [drawn(maker, [tool_example, result_example])])
    assert min(found["tool"], found["tool+think"]) >= 0.3, found
    assert min(found["tool_result"], found["tool_result+think"]) >= 0.8, found
