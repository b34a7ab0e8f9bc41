"""Preprocessing equals transformers' own, bit for bit: sizes, pixels, timestamps, prompt text.

The goldens come from an environment with torchvision (see README.md). A mismatch in
`source_sha256` is one of the decoder (Pillow), not of what this project does to the pixels.
"""

import asyncio
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_cases import (
    FRAME_LISTS,
    IMAGES,
    PROMPT_IMAGES,
    PROMPT_VIDEOS,
    VIDEOS,
    Case,
    collapsed,
)

from demo.tokenizer import build_tokenizer
from multimodal.image import decode_image
from multimodal.items import FramesRef, ImageRef, LoadedMedia, MediaRef, VideoRef
from multimodal.layout import VisionTokens, expand_prompt
from multimodal.options import MediaLimits, MediaOptions
from multimodal.pipeline import MediaPipeline
from multimodal.preprocessor_config import PreprocessorConfig

MEDIA = Path(__file__).parents[1] / "media"
GOLDENS: dict[str, Any] = json.loads(
    (Path(__file__).parent / "goldens" / "preprocessing.json").read_text()
)


@pytest.fixture(scope="module")
def pipeline() -> Iterator[MediaPipeline]:
    made = MediaPipeline(PreprocessorConfig(), MediaLimits(), namespace="parity", num_workers=1)
    yield made
    asyncio.run(made.close())


def by_name(cases: tuple[Case, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


def read(name: str) -> bytes:
    return (MEDIA / name).read_bytes()


def options_of(case: Case) -> MediaOptions:
    options: dict[str, Any] = case.options
    return MediaOptions(**options)


async def load(pipeline: MediaPipeline, ref: MediaRef) -> LoadedMedia:
    (loaded,) = await pipeline.load([ref])
    return loaded


def reference_pixels(loaded: LoadedMedia) -> np.ndarray:
    """Our patches in the reference's order: (patches, channel, 2 frames, row, column).

    The reference repeats an image to fill the temporal patch; our model's weights do that.
    """
    patches = torch.cat([item.patches for item in loaded.items])
    frames = patches.view(patches.shape[0], -1, 16, 16, 3).permute(0, 4, 1, 2, 3)
    return frames.expand(-1, -1, 2, -1, -1).contiguous().numpy()


def assert_equals_golden(loaded: LoadedMedia, golden: dict[str, Any]) -> None:
    grids = {(item.grid_h, item.grid_w) for item in loaded.items}
    assert grids == {tuple(golden["grid_thw"][1:])}
    assert len(loaded.items) == golden["grid_thw"][0]
    flat = reference_pixels(loaded).reshape(-1)
    expected = np.frombuffer(bytes.fromhex(golden["samples"]), np.uint8)
    places = np.linspace(0, flat.size - 1, expected.size).astype(int)
    difference = np.abs(flat[places].astype(int) - expected)
    where = places[difference > 0].tolist()
    assert not where, f"max {difference.max()}, mean {difference.mean():.3f}, at {where}"
    assert hashlib.sha256(flat.data).hexdigest() == golden["pixels_sha256"]


@by_name(IMAGES)
def test_an_image_is_decoded_as_documented(case: Case) -> None:
    golden = GOLDENS["images"][case.name]
    rgb = decode_image(read(case.files[0]), MediaLimits())
    assert list(rgb.shape) == golden["source_shape"]
    assert hashlib.sha256(rgb.data).hexdigest() == golden["source_sha256"]


@by_name(IMAGES)
async def test_an_image_equals_the_reference(pipeline: MediaPipeline, case: Case) -> None:
    loaded = await load(pipeline, ImageRef(read(case.files[0]), options_of(case), "image"))
    assert_equals_golden(loaded, GOLDENS["images"][case.name])


@by_name(VIDEOS)
async def test_a_video_equals_the_reference(pipeline: MediaPipeline, case: Case) -> None:
    golden = GOLDENS["videos"][case.name]
    loaded = await load(pipeline, VideoRef(read(case.files[0]), options_of(case), "video"))
    assert list(loaded.timestamps) == golden["timestamps"]
    assert_equals_golden(loaded, golden)


@by_name(FRAME_LISTS)
async def test_a_list_of_frames_equals_the_reference(pipeline: MediaPipeline, case: Case) -> None:
    golden = GOLDENS["frame_lists"][case.name]
    frames = tuple(read(name) for name in case.files)
    loaded = await load(pipeline, FramesRef(frames, options_of(case), "video"))
    assert list(loaded.timestamps) == golden["timestamps"]
    assert_equals_golden(loaded, golden)


async def test_the_prompt_equals_the_reference(pipeline: MediaPipeline) -> None:
    """As text, and as the tokens of that text: timestamps do not merge with their neighbours."""
    golden = GOLDENS["prompt"]
    tokenizer = build_tokenizer()
    names = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokens = VisionTokens(*(tokenizer.convert_tokens_to_ids(name) for name in names))
    images = [ImageRef(read(name), MediaOptions(), "image") for name in PROMPT_IMAGES]
    videos = [VideoRef(read(name), MediaOptions(), "video") for name in PROMPT_VIDEOS]
    expanded = expand_prompt(
        tokenizer.encode(golden["prompt"]),
        await pipeline.load([*images, *videos]),
        tokens,
        lambda text: tokenizer.encode(text, add_special_tokens=False),
    )
    text = tokenizer.decode(expanded.token_ids)
    assert collapsed(text) == golden["expanded"]
    assert tuple(tokenizer.encode(text)) == expanded.token_ids


def test_every_golden_belongs_to_a_case() -> None:
    groups = {"images": IMAGES, "videos": VIDEOS, "frame_lists": FRAME_LISTS}
    for group, cases in groups.items():
        assert list(GOLDENS[group]) == [case.name for case in cases]
