"""Sizes, frames and positions: any options within the limits give one consistent answer."""

import dataclasses
import math
from contextlib import suppress
from itertools import pairwise
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from multimodal.errors import InvalidOption, MediaError, MediaTooLarge
from multimodal.items import LoadedMedia
from multimodal.layout import VisionTokens, expand_prompt
from multimodal.mrope import mrope_positions
from multimodal.options import MediaLimits, MediaOptions
from multimodal.plan import VideoHeader, VideoPlan, plan_frame_list, plan_image, plan_video
from multimodal.preprocessor_config import PreprocessorConfig
from multimodal.video import _video_header
from multimodal.visual_items import clip_outline, image_outline, video_identities

CONFIG, LIMITS = PreprocessorConfig(), MediaLimits()
VISION = VisionTokens(vision_start=1, vision_end=2, image_pad=3, video_pad=4)
sides = st.integers(1, 5000) | st.integers(1, 2**31)
numbers = st.integers(-1, 2**31) | st.sampled_from([1, 2, 4096, 65536, LIMITS.max_pixels])
seconds = st.floats(-1, 8000) | st.floats()
options = st.builds(
    MediaOptions,
    min_pixels=st.none() | numbers,
    max_pixels=st.none() | numbers,
    fps=st.none() | st.floats(0.001, 60) | st.floats(),
    num_frames=st.none() | st.integers(-1, 800),
    max_frames=st.none() | st.integers(-1, 800),
    video_start=st.none() | seconds,
    video_end=st.none() | seconds,
    total_pixels=st.none() | numbers,
)
headers = st.builds(
    VideoHeader,
    num_frames=st.integers(1, 10_000) | st.integers(1, 2**40),
    fps=st.floats(0.1, 240) | st.floats(),
    width=sides,
    height=sides,
)


def check_size(height: int, width: int) -> None:
    assert min(height, width) >= CONFIG.factor
    assert height % CONFIG.factor == width % CONFIG.factor == 0
    assert height * width // CONFIG.factor**2 <= CONFIG.max_item_tokens


def check_clip(plan: VideoPlan, num_frames: int) -> None:
    check_size(plan.height, plan.width)
    assert len(plan.indices) == CONFIG.temporal_patch_size * len(plan.timestamps) > 0
    assert all(a <= b for a, b in pairwise(plan.indices))
    assert plan.indices[0] >= 0 and plan.indices[-1] < num_frames
    assert len(plan.indices) <= LIMITS.max_frames + 1
    assert all(math.isfinite(time) and time >= 0 for time in plan.timestamps)


@given(sides, sides, options)
def test_an_image_has_a_size_that_fits_or_is_refused(
    height: int, width: int, options: MediaOptions
) -> None:
    with suppress(MediaTooLarge, InvalidOption):
        check_size(*plan_image(height, width, options, CONFIG, LIMITS))


@given(headers, options)
def test_a_video_has_frames_that_it_has_or_is_refused(
    header: VideoHeader, options: MediaOptions
) -> None:
    with suppress(MediaTooLarge, InvalidOption):
        check_clip(plan_video(header, options, CONFIG, LIMITS), header.num_frames)


@given(st.integers(0, 1000), sides, sides, options)
def test_a_list_of_frames_is_used_whole_or_refused(
    num_frames: int, height: int, width: int, options: MediaOptions
) -> None:
    options = dataclasses.replace(options, num_frames=None, video_start=None, video_end=None)
    with suppress(MediaTooLarge, InvalidOption):
        plan = plan_frame_list(num_frames, height, width, options, CONFIG, LIMITS)
        check_clip(plan, num_frames)
        assert set(plan.indices) == set(range(num_frames))


finite = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            name: finite | st.none() | st.lists(finite, max_size=1)
            for name in ("num_frames", "fps", "width", "height")
        },
    )
    | finite
    | st.none()
)
def test_whatever_a_worker_says_is_a_header_or_a_damaged_video(answer: Any) -> None:
    with suppress(MediaError):
        header = _video_header(answer)
        assert min(header.num_frames, header.width, header.height) >= 1


def make_media(kind: str, rows: int, columns: int, num_items: int) -> LoadedMedia:
    height, width = rows * CONFIG.factor, columns * CONFIG.factor
    if kind == "image":
        return image_outline((height, width), "digest", CONFIG, "ab")
    plan = VideoPlan(
        tuple(range(2 * num_items)), tuple(float(i) for i in range(num_items)), height, width
    )
    return clip_outline(plan, "file", video_identities("digest", plan), CONFIG, "ab")


media = st.builds(
    make_media,
    st.sampled_from(["image", "video"]),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(1, 4),
)


@given(st.lists(media | st.integers(5, 9), max_size=8))
def test_every_token_of_a_medium_has_a_place_and_positions(prompt: list[LoadedMedia | int]) -> None:
    loaded = [part for part in prompt if isinstance(part, LoadedMedia)]
    pads = {"image": VISION.image_pad, "video": VISION.video_pad}
    tokens = [pads[part.modality] if isinstance(part, LoadedMedia) else part for part in prompt]
    expanded = expand_prompt(tokens, loaded, VISION, lambda text: [5] * len(text))
    assert len(expanded.items) == sum(len(part.items) for part in loaded)
    num_pads = sum(token in pads.values() for token in expanded.token_ids)
    assert num_pads == sum(placed.num_tokens for placed in expanded.items)
    grids = []
    for placed in expanded.items:
        rows, columns = placed.item.grid_h // 2, placed.item.grid_w // 2
        assert placed.num_tokens == rows * columns
        span = expanded.token_ids[placed.offset : placed.offset + placed.num_tokens]
        assert set(span) == {pads[placed.item.modality]}
        grids.append((placed.offset, rows, columns))
    positions, offset = mrope_positions(len(expanded.token_ids), grids)
    assert positions.shape == (3, len(expanded.token_ids))
    is_text = torch.tensor([token not in pads.values() for token in expanded.token_ids], dtype=bool)
    text = positions[:, is_text]
    assert torch.equal(text[0], text[1]) and torch.equal(text[0], text[2])
    assert bool((text[0].diff() >= 1).all())
    if len(expanded.token_ids):
        next_position = len(expanded.token_ids) + offset
        assert next_position == int(positions.max()) + 1
