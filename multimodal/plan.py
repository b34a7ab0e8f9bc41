"""What is done with one media item: options, checkpoint numbers and limits resolved to sizes.

An option replaces the checkpoint's number; the server's limits bound both.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from multimodal.errors import InvalidOption, MediaTooLarge
from multimodal.grid import (
    DEFAULT_SOURCE_FPS,
    frame_timestamps,
    grid_frame_indices,
    padded,
    resized_image_size,
    resized_video_size,
    sample_frame_indices,
)
from multimodal.options import MediaLimits, MediaOptions
from multimodal.preprocessor_config import PreprocessorConfig

FRAME_LIST_FPS = 2.0  # the rate at which a list of frames was taken, unless the request says so
MIN_FPS = 0.001  # keeps timestamps finite
RGB_BYTES = 3  # a pixel


@dataclass(frozen=True, slots=True)
class VideoHeader:
    """What is known of a video file before its frames are decoded; sizes are after rotation."""

    num_frames: int
    fps: float
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class VideoPlan:
    """Which frames of a clip are used, and how.

    Attributes:
        indices: frame numbers in the source, a multiple of the temporal patch size many.
        timestamps: seconds in the source, one per temporal patch.
        height, width: pixels to which each frame is resized.
    """

    indices: tuple[int, ...]
    timestamps: tuple[float, ...]
    height: int
    width: int


def check_options(options: MediaOptions, limits: MediaLimits) -> None:
    """Raises: InvalidOption if an option is out of bounds, or two contradict each other."""
    _check_range("min_pixels", options.min_pixels, limits.max_pixels)
    _check_range("max_pixels", options.max_pixels, limits.max_pixels)
    _check_range("total_pixels", options.total_pixels, limits.max_total_pixels)
    _check_range("num_frames", options.num_frames, limits.max_frames)
    _check_range("max_frames", options.max_frames, limits.max_frames)
    _check_range("fps", options.fps, limits.max_fps, minimum=MIN_FPS)
    for name, seconds in (("video_start", options.video_start), ("video_end", options.video_end)):
        if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
            raise InvalidOption(
                f"{name} must be a number from 0 on, got {seconds}", "invalid_option"
            )
    if options.fps is not None and options.num_frames is not None:
        raise InvalidOption("fps and num_frames exclude each other", "conflicting_options")
    _check_order("min_pixels", options.min_pixels, "max_pixels", options.max_pixels)
    _check_order("num_frames", options.num_frames, "max_frames", options.max_frames)
    if options.video_start is not None and options.video_end is not None:
        _check_window(options.video_start, options.video_end)


def check_image_header(width: int, height: int, limits: MediaLimits) -> None:
    """Raises: MediaTooLarge if an image or frame of this size must not be decoded."""
    if width * height > limits.max_source_pixels:
        raise MediaTooLarge(
            f"{width}x{height} = {width * height} pixels exceed max_source_pixels "
            f"({limits.max_source_pixels})",
            "too_many_source_pixels",
        )
    ratio = max(width, height) / min(width, height)
    if ratio > limits.max_aspect_ratio:
        raise MediaTooLarge(
            f"{width}x{height}: aspect ratio {ratio:.1f} exceeds max_aspect_ratio "
            f"({limits.max_aspect_ratio:g})",
            "aspect_ratio_too_large",
        )
    check_decoded_bytes(width * height * RGB_BYTES, limits)


def check_decoded_bytes(num_bytes: int, limits: MediaLimits) -> None:
    """Raises: MediaTooLarge."""
    if num_bytes > limits.max_decoded_bytes:
        raise MediaTooLarge(
            f"{num_bytes} decoded bytes exceed max_decoded_bytes ({limits.max_decoded_bytes})",
            "too_many_decoded_bytes",
        )


def check_request_source_pixels(num_pixels: int, limits: MediaLimits) -> None:
    """Raises: MediaTooLarge."""
    if num_pixels > limits.max_request_source_pixels:
        raise MediaTooLarge(
            f"images and listed frames of {num_pixels} pixels in total exceed "
            f"max_request_source_pixels ({limits.max_request_source_pixels})",
            "too_many_source_pixels",
        )


def plan_image(
    height: int,
    width: int,
    options: MediaOptions,
    config: PreprocessorConfig,
    limits: MediaLimits,
) -> tuple[int, int]:
    """The (height, width) to which an image of (height, width) is resized.

    Raises: InvalidOption, MediaTooLarge.
    """
    check_options(options, limits)
    max_pixels = min(options.max_pixels or config.image_max_pixels, limits.max_pixels)
    min_pixels = min(options.min_pixels or config.image_min_pixels, max_pixels)

    def resized(lower_bound: int) -> tuple[int, int]:
        return resized_image_size(
            height, width, factor=config.factor, min_pixels=lower_bound, max_pixels=max_pixels
        )

    return _within_item_budget(resized, min_pixels, config)


def plan_video(
    header: VideoHeader, options: MediaOptions, config: PreprocessorConfig, limits: MediaLimits
) -> VideoPlan:
    """Sample a video file. A missing frame rate (0) counts as 24, as in the reference.

    A window is sampled on a grid that starts with the file, so that overlapping windows have
    temporal patches in common; where the grid gives too few or too many frames, and with
    `num_frames`, its frames are spread evenly as those of a whole file are.

    Raises: InvalidOption; MediaTooLarge if the file is too long or its frames are too large.
    """
    check_options(options, limits)
    check_image_header(header.width, header.height, limits)
    source_fps = header.fps if math.isfinite(header.fps) and header.fps > 0 else DEFAULT_SOURCE_FPS
    duration_s = header.num_frames / source_fps
    if duration_s > limits.max_video_duration_s:
        raise MediaTooLarge(
            f"a video of {duration_s:.1f} s exceeds max_video_duration_s "
            f"({limits.max_video_duration_s:g})",
            "video_too_long",
        )
    first, last = _frame_window(header.num_frames, source_fps, options)
    fps = options.fps or config.fps
    max_frames = min(options.max_frames or config.max_frames, limits.max_frames)
    indices: tuple[int, ...] = ()
    if (options.video_start, options.video_end) != (None, None) and options.num_frames is None:
        indices = grid_frame_indices(first, last, source_fps, fps, config.temporal_patch_size)
    if not config.min_frames <= len(indices) <= max_frames:
        sampled = sample_frame_indices(
            last - first + 1,
            source_fps,
            fps=fps,
            num_frames=options.num_frames,
            min_frames=config.min_frames,
            max_frames=max_frames,
        )
        indices = tuple(first + index for index in sampled)
    return plan_clip(indices, source_fps, header.height, header.width, options, config, limits)


def plan_frame_list(
    num_frames: int,
    height: int,
    width: int,
    options: MediaOptions,
    config: PreprocessorConfig,
    limits: MediaLimits,
) -> VideoPlan:
    """Use every frame of a list; `options.fps` states the rate at which they were taken.

    Raises: InvalidOption for options that only a video file can follow; MediaTooLarge for too many.
    """
    check_frame_list(num_frames, options, limits)
    fps = options.fps or FRAME_LIST_FPS
    return plan_clip(tuple(range(num_frames)), fps, height, width, options, config, limits)


def check_frame_list(num_frames: int, options: MediaOptions, limits: MediaLimits) -> None:
    """What can be refused of a list of frames before any of them is looked at."""
    check_options(options, limits)
    for name in ("num_frames", "video_start", "video_end"):
        if getattr(options, name) is not None:
            raise InvalidOption(f"{name} does not apply to a list of frames", "invalid_option")
    if num_frames < 1:
        raise InvalidOption("a list of frames must have at least one", "invalid_option")
    max_frames = options.max_frames or limits.max_frames
    if num_frames > max_frames:
        raise MediaTooLarge(
            f"{num_frames} frames exceed max_frames ({max_frames})", "too_many_frames"
        )


def plan_clip(
    indices: tuple[int, ...],
    source_fps: float,
    height: int,
    width: int,
    options: MediaOptions,
    config: PreprocessorConfig,
    limits: MediaLimits,
) -> VideoPlan:
    """Sizes and timestamps of frames that are already chosen; reads the pixel options only.

    Args:
        indices: frame numbers in the source, at least one; a single frame counts as two equal ones.
        source_fps: frames per second of the source, above 0.
    Raises: InvalidOption, MediaTooLarge.
    """
    num_frames = max(len(indices), config.temporal_patch_size)
    max_area = options.total_pixels or limits.max_total_pixels
    max_area *= config.temporal_patch_size  # total_pixels counts a temporal patch once
    if options.total_pixels is None:
        max_area = min(max_area, config.video_max_pixels)
    max_area = min(max_area, (options.max_pixels or limits.max_pixels) * num_frames)
    min_area = config.video_min_pixels
    if options.min_pixels is not None:
        min_area = options.min_pixels * num_frames

    def resized(lower_bound: int) -> tuple[int, int]:
        return resized_video_size(
            num_frames,
            height,
            width,
            temporal_factor=config.temporal_patch_size,
            factor=config.factor,
            min_pixels=lower_bound,
            max_pixels=max_area,
        )

    resized_height, resized_width = _within_item_budget(resized, min(min_area, max_area), config)
    return VideoPlan(
        indices=padded(indices, config.temporal_patch_size),
        timestamps=frame_timestamps(indices, source_fps, config.temporal_patch_size),
        height=resized_height,
        width=resized_width,
    )


def _within_item_budget(
    resized: Callable[[int], tuple[int, int]], min_pixels: int, config: PreprocessorConfig
) -> tuple[int, int]:
    """Apply a resize rule; where growing overshoots what one item may have, do not grow."""
    max_area = config.max_item_tokens * config.factor**2
    try:
        height, width = resized(min_pixels)
        if height * width > max_area:
            height, width = resized(1)
    except ValueError as error:
        raise MediaTooLarge(str(error), "aspect_ratio_too_large") from None
    if height * width > max_area:
        raise MediaTooLarge(
            f"{width}x{height} pixels after resizing exceed what one item may have ({max_area})",
            "too_many_pixels",
        )
    return height, width


def _frame_window(num_frames: int, fps: float, options: MediaOptions) -> tuple[int, int]:
    """First and last frame of `video_start`..`video_end`, both included."""
    if options.video_start is None and options.video_end is None:
        return 0, num_frames - 1
    duration_s = num_frames / fps
    start_s = min(options.video_start or 0.0, duration_s)
    end_s = duration_s if options.video_end is None else min(options.video_end, duration_s)
    first, last = math.ceil(start_s * fps), min(math.floor(end_s * fps), num_frames - 1)
    if first >= last:
        raise InvalidOption(
            f"video_start..video_end ({start_s:g}..{end_s:g} s) holds less than two frames of a "
            f"video of {duration_s:.3f} s",
            "empty_video_window",
        )
    return first, last


def _check_range(name: str, value: float | None, maximum: float, minimum: float = 1) -> None:
    if value is not None and not minimum <= value <= maximum:
        raise InvalidOption(
            f"{name} must be from {minimum} to {maximum}, got {value}", "invalid_option"
        )


def _check_order(low_name: str, low: int | None, high_name: str, high: int | None) -> None:
    if low is not None and high is not None and low > high:
        raise InvalidOption(
            f"{low_name} ({low}) exceeds {high_name} ({high})", "conflicting_options"
        )


def _check_window(start_s: float, end_s: float) -> None:
    if start_s >= end_s:
        message = f"video_start ({start_s:g}) must be before video_end ({end_s:g})"
        raise InvalidOption(message, "conflicting_options")
