"""Sizes, frame indices and timestamps: the maths of the reference's preprocessing, without pixels.

Every function equals its counterpart in the installed transformers, rounding included, so that the
same media give the same tokens here and there.
"""

import math
from collections.abc import Sequence

import numpy as np

DEFAULT_SOURCE_FPS = 24.0  # what the reference assumes for a file that states no frame rate
_MAX_ASPECT_RATIO = 200.0


def resized_image_size(
    height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """The (height, width) to which an image is resized.

    Args:
        height, width: pixels of the source, at least 1.
        factor: both sides become multiples of it.
        min_pixels, max_pixels: bounds on the area of the result. Rounding to `factor` may pass
            `max_pixels`: for very long images, and where the two bounds are close.
    Raises: ValueError if one side is more than 200 times the other.
    Source: transformers models/qwen2_vl/image_processing_qwen2_vl.py `smart_resize` @ 5.19.
    """
    _check_aspect_ratio(height, width)
    resized = _rounded(height, factor), _rounded(width, factor)
    return _into_bounds(
        resized, height, width, frames=(1, 1), bounds=(min_pixels, max_pixels), factor=factor
    )


def resized_video_size(
    num_frames: int,
    height: int,
    width: int,
    *,
    temporal_factor: int,
    factor: int,
    min_pixels: int,
    max_pixels: int,
) -> tuple[int, int]:
    """The (height, width) to which each frame of a clip is resized.

    Args:
        num_frames: sampled frames before padding; at least `temporal_factor`.
        min_pixels, max_pixels: bounds on frames * height * width of the resized clip.
    Raises: ValueError for too few frames, or if one side is more than 200 times the other.
    Source: transformers models/qwen3_vl/video_processing_qwen3_vl.py `smart_resize` @ 5.19; it
        compares with frames rounded to `temporal_factor`, and scales with frames unrounded.
    """
    if num_frames < temporal_factor:
        raise ValueError(
            f"{num_frames} frames are fewer than the temporal factor {temporal_factor}"
        )
    if height < factor or width < factor:
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    _check_aspect_ratio(height, width)
    resized = _rounded(height, factor), _rounded(width, factor)
    frames = num_frames, _rounded(num_frames, temporal_factor)
    return _into_bounds(
        resized, height, width, frames=frames, bounds=(min_pixels, max_pixels), factor=factor
    )


def sample_frame_indices(
    total_num_frames: int,
    source_fps: float,
    *,
    fps: float,
    num_frames: int | None,
    min_frames: int,
    max_frames: int,
) -> tuple[int, ...]:
    """Indices of the frames to take from a clip, evenly spread over it, first and last included.

    Args:
        total_num_frames: frames in the clip, at least 1.
        source_fps: its frame rate.
        fps: wanted rate; the count is kept within `min_frames`..`max_frames` and the clip's own.
        num_frames: if given, exactly this many (indices repeat when the clip is shorter); `fps` and
            the bounds are not looked at.
    Source: transformers Qwen3VLVideoProcessor.sample_frames @ 5.19.
    """
    if num_frames is None:
        num_frames = int(total_num_frames / source_fps * fps)
        num_frames = min(max(num_frames, min_frames), max_frames, total_num_frames)
    indices = np.linspace(0, total_num_frames - 1, num_frames).round()
    return tuple(int(index) for index in indices)


def grid_frame_indices(
    first: int, last: int, source_fps: float, fps: float, temporal_patch_size: int
) -> tuple[int, ...]:
    """Frames of a window at `fps`, in whole temporal patches counted from the file's first frame.

    Args:
        first, last: frame numbers, both in the window.
        fps: wanted rate; a rate above that of the source counts as that.
    """
    step = max(source_fps / fps, 1.0)
    begin = math.ceil((first - 0.5) / step / temporal_patch_size)
    end = math.floor((last + 0.5) / step / temporal_patch_size) + 1
    indices: list[int] = []
    for group in range(max(begin, 0), end):
        start = group * temporal_patch_size
        frames = [round(k * step) for k in range(start, start + temporal_patch_size)]
        if first <= frames[0] and frames[-1] <= last:
            indices += frames
    return tuple(indices)


def frame_timestamps(
    indices: Sequence[int], fps: float, temporal_patch_size: int = 2
) -> tuple[float, ...]:
    """Seconds of each temporal patch: the mean of its first and last frame's time.

    Args:
        indices: frame numbers in the source file; a last patch that is short repeats the last one.
        fps: frame rate of the source file.
    Source: transformers Qwen3VLProcessor._calculate_timestamps @ 5.19.
    """
    seconds = [index / fps for index in padded(indices, temporal_patch_size)]
    last = temporal_patch_size - 1
    return tuple(
        (seconds[i] + seconds[i + last]) / 2 for i in range(0, len(seconds), temporal_patch_size)
    )


def padded(indices: Sequence[int], temporal_patch_size: int) -> tuple[int, ...]:
    """`indices` with the last one repeated until they fill whole temporal patches."""
    missing = -len(indices) % temporal_patch_size
    return (*indices, *[indices[-1]] * missing)


def _check_aspect_ratio(height: int, width: int) -> None:
    ratio = max(height, width) / min(height, width)
    if ratio > _MAX_ASPECT_RATIO:
        raise ValueError(f"aspect ratio {ratio:.1f} exceeds {_MAX_ASPECT_RATIO:.0f}")


def _rounded(value: int, factor: int) -> int:
    return round(value / factor) * factor


def _into_bounds(
    resized: tuple[int, int],
    height: int,
    width: int,
    *,
    frames: tuple[int, int],
    bounds: tuple[int, int],
    factor: int,
) -> tuple[int, int]:
    """Shrink or grow to the bounds. `frames`: their count, and the count to compare with."""
    num_frames, counted_frames = frames
    min_pixels, max_pixels = bounds
    area = counted_frames * resized[0] * resized[1]
    if area > max_pixels:
        beta = math.sqrt((num_frames * height * width) / max_pixels)
        return (
            max(factor, math.floor(height / beta / factor) * factor),
            max(factor, math.floor(width / beta / factor) * factor),
        )
    if area < min_pixels:
        beta = math.sqrt(min_pixels / (num_frames * height * width))
        return (
            math.ceil(height * beta / factor) * factor,
            math.ceil(width * beta / factor) * factor,
        )
    return resized
