"""Sizes, indices and timestamps against the installed transformers' own functions.

The reference's modules cannot be imported without torchvision, so the functions are taken out of
their source files.
"""

import ast
import itertools
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

from multimodal.grid import (
    frame_timestamps,
    padded,
    resized_image_size,
    resized_video_size,
    sample_frame_indices,
)


def reference_function(module: str, name: str) -> Callable[..., Any]:
    """A function or method of transformers, compiled from its file without the file's imports."""
    source = (Path(transformers.__file__).parent / "models" / module).read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            node.decorator_list = []
            node.returns = None
            for argument in (*node.args.args, *node.args.kwonlyargs):
                argument.annotation = None
            names: dict[str, Any] = {"math": __import__("math"), "np": np, "torch": torch}
            exec(compile(ast.Module([node], []), module, "exec"), names)
            function: Callable[..., Any] = names[name]
            return function
    raise LookupError(name)


reference_image_size = reference_function("qwen2_vl/image_processing_qwen2_vl.py", "smart_resize")
reference_video_size = reference_function("qwen3_vl/video_processing_qwen3_vl.py", "smart_resize")
reference_sample_frames = reference_function(
    "qwen3_vl/video_processing_qwen3_vl.py", "sample_frames"
)


def random_sides(count: int) -> list[tuple[int, int]]:
    generator = random.Random(0)
    sides = [(generator.randint(1, 5000), generator.randint(1, 5000)) for _ in range(count)]
    edges = list(itertools.product([1, 15, 16, 17, 31, 32, 33, 48, 80, 112, 199, 200], repeat=2))
    return [(h, w) for h, w in sides + edges if max(h, w) <= 200 * min(h, w)]


@pytest.mark.parametrize(
    ("min_pixels", "max_pixels"), [(65_536, 16_777_216), (1, 1024), (200_704, 200_704)]
)
def test_image_sizes_equal_the_reference(min_pixels: int, max_pixels: int) -> None:
    for height, width in random_sides(2000):
        bounds = {"factor": 32, "min_pixels": min_pixels, "max_pixels": max_pixels}
        assert resized_image_size(height, width, **bounds) == reference_image_size(
            height, width, **bounds
        ), (height, width)


@pytest.mark.parametrize(
    ("min_pixels", "max_pixels"), [(4096, 25_165_824), (4096, 100_000), (3_000_000, 4_000_000)]
)
def test_video_sizes_equal_the_reference(min_pixels: int, max_pixels: int) -> None:
    for (height, width), num_frames in itertools.product(random_sides(100), [2, 3, 4, 5, 7, 768]):
        arguments = {
            "temporal_factor": 2,
            "factor": 32,
            "min_pixels": min_pixels,
            "max_pixels": max_pixels,
        }
        try:
            expected = reference_video_size(num_frames, height, width, **arguments)
        except ValueError:  # growing 1 x 200 to 32 rows may push the ratio beyond 200
            with pytest.raises(ValueError, match="aspect ratio"):
                resized_video_size(num_frames, height, width, **arguments)
            continue
        assert resized_video_size(num_frames, height, width, **arguments) == expected


def test_published_example_sizes() -> None:
    bounds = {"factor": 32, "min_pixels": 65_536, "max_pixels": 16_777_216}
    assert resized_image_size(1080, 1920, **bounds) == (1088, 1920)
    assert resized_image_size(16, 16, **bounds) == (256, 256)


def test_aspect_ratio_above_200_is_refused() -> None:
    with pytest.raises(ValueError, match="200"):
        resized_image_size(1, 201, factor=32, min_pixels=1, max_pixels=10_000)


def test_one_frame_is_not_a_clip() -> None:
    bounds = {"temporal_factor": 2, "factor": 32, "min_pixels": 1, "max_pixels": 10_000}
    with pytest.raises(ValueError, match="1 frames"):
        resized_video_size(1, 64, 64, **bounds)


@pytest.mark.parametrize("num_frames", [None, 1, 2, 7, 100])
def test_sampled_indices_equal_the_reference(num_frames: int | None) -> None:
    processor = SimpleNamespace(fps=2, min_frames=4, max_frames=768)
    rates = [(1.0, 2.0), (24.0, 2.0), (29.97, 0.5), (30.0, 30.0), (60.0, 3.3)]
    for total, (source_fps, fps) in itertools.product([1, 2, 3, 5, 84, 1001, 50_000], rates):
        expected = reference_sample_frames(
            processor,
            SimpleNamespace(total_num_frames=total, fps=source_fps),
            num_frames=num_frames,
            fps=fps if num_frames is None else None,
        )
        actual = sample_frame_indices(
            total, source_fps, fps=fps, num_frames=num_frames, min_frames=4, max_frames=768
        )
        assert list(actual) == expected.tolist(), (total, source_fps, fps)


def test_timestamps_of_the_published_example() -> None:
    indices = [0, 12, 24, 36, 48, 60, 72]
    seconds = [f"{second:.1f}" for second in frame_timestamps(indices, 24.0)]
    assert seconds == ["0.2", "1.2", "2.2", "3.0"]


@pytest.mark.parametrize("indices", [[3], [0, 1], [0, 7, 15], list(range(0, 1000, 13))])
def test_timestamps_equal_the_reference(indices: list[int]) -> None:
    expected = Qwen3VLProcessor._calculate_timestamps(None, list(indices), 29.97, 2)
    assert list(frame_timestamps(indices, 29.97)) == expected


def test_timestamps_leave_the_indices_alone() -> None:
    indices = [0, 12, 24]
    frame_timestamps(indices, 24.0)
    assert indices == [0, 12, 24]


def test_padding_repeats_the_last_index() -> None:
    assert padded([0, 5, 9], 2) == (0, 5, 9, 9)
    assert padded([0, 5], 2) == (0, 5)
