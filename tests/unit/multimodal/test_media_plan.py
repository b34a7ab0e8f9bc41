import math
from typing import Any

import pytest

from multimodal.errors import InvalidOption, MediaTooLarge
from multimodal.options import MediaLimits, MediaOptions
from multimodal.plan import (
    VideoHeader,
    check_image_header,
    check_options,
    plan_clip,
    plan_frame_list,
    plan_image,
    plan_video,
)
from multimodal.preprocessor_config import PreprocessorConfig

CONFIG = PreprocessorConfig()
LIMITS = MediaLimits()
HEADER = VideoHeader(num_frames=240, fps=24.0, width=640, height=480)


@pytest.mark.parametrize(
    "options",
    [
        {"min_pixels": 0},
        {"min_pixels": -1},
        {"max_pixels": LIMITS.max_pixels + 1},
        {"total_pixels": LIMITS.max_total_pixels + 1},
        {"num_frames": 0},
        {"num_frames": LIMITS.max_frames + 1},
        {"max_frames": LIMITS.max_frames + 1},
        {"fps": 0.0},
        {"fps": 5e-324},
        {"fps": -1.0},
        {"fps": math.nan},
        {"fps": math.inf},
        {"fps": LIMITS.max_fps + 1},
        {"video_start": -0.1},
        {"video_end": math.inf},
        {"video_start": math.nan},
    ],
)
def test_option_out_of_bounds_is_named_with_its_value(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption) as error:
        check_options(MediaOptions(**options), LIMITS)
    ((name, value),) = options.items()
    assert error.value.message.startswith(name)
    assert str(value) in error.value.message
    assert error.value.code == "invalid_option"


@pytest.mark.parametrize(
    "options",
    [
        {"fps": 1.0, "num_frames": 4},
        {"min_pixels": 2000, "max_pixels": 1000},
        {"num_frames": 9, "max_frames": 8},
        {"video_start": 3.0, "video_end": 3.0},
    ],
)
def test_contradictory_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption) as error:
        check_options(MediaOptions(**options), LIMITS)
    assert error.value.code == "conflicting_options"
    assert all(name in error.value.message for name in options)


def test_options_at_their_bounds_are_accepted() -> None:
    check_options(
        MediaOptions(max_pixels=LIMITS.max_pixels, fps=LIMITS.max_fps, video_start=0.0), LIMITS
    )


def test_image_options_replace_the_checkpoints_bounds() -> None:
    assert plan_image(64, 64, MediaOptions(), CONFIG, LIMITS) == (256, 256)
    assert plan_image(64, 64, MediaOptions(min_pixels=4096), CONFIG, LIMITS) == (64, 64)
    height, width = plan_image(2000, 3000, MediaOptions(max_pixels=500_000), CONFIG, LIMITS)
    assert 400_000 < height * width <= 500_000


def test_server_limit_bounds_an_image_without_options() -> None:
    height, width = plan_image(2000, 3000, MediaOptions(), CONFIG, MediaLimits(max_pixels=90_000))
    assert 65_536 < height * width <= 90_000


def test_growing_never_passes_what_one_item_may_have() -> None:
    options = MediaOptions(min_pixels=LIMITS.max_pixels)
    height, width = plan_image(4000, 4100, options, CONFIG, LIMITS)
    assert height * width <= CONFIG.image_max_pixels


def test_too_long_an_image_is_too_large() -> None:
    with pytest.raises(MediaTooLarge) as error:
        plan_image(1, 500, MediaOptions(), CONFIG, LIMITS)
    assert error.value.code == "aspect_ratio_too_large"


def test_image_header_limits_name_limit_and_value() -> None:
    with pytest.raises(MediaTooLarge, match=r"10000x10000 .* max_source_pixels \(64000000\)"):
        check_image_header(10_000, 10_000, LIMITS)
    with pytest.raises(MediaTooLarge, match=r"aspect ratio 300.0 .*max_aspect_ratio \(200\)"):
        check_image_header(300, 1, LIMITS)
    with pytest.raises(MediaTooLarge, match=r"30000 decoded bytes .*max_decoded_bytes \(20000\)"):
        check_image_header(100, 100, MediaLimits(max_decoded_bytes=20_000))


def test_video_is_sampled_at_the_checkpoints_rate() -> None:
    plan = plan_video(HEADER, MediaOptions(), CONFIG, LIMITS)
    assert len(plan.indices) == 20
    assert (plan.indices[0], plan.indices[-1]) == (0, 239)
    assert (plan.height, plan.width) == (480, 640)


def test_odd_sample_repeats_the_last_frame() -> None:
    plan = plan_video(HEADER, MediaOptions(num_frames=5), CONFIG, LIMITS)
    assert plan.indices == (0, 60, 120, 179, 239, 239)
    assert plan.timestamps == pytest.approx((1.25, (120 + 179) / 48, 239 / 24))


@pytest.mark.parametrize("fps", [0.0, math.nan, -1.0, math.inf])
def test_missing_frame_rate_counts_as_24(fps: float) -> None:
    header = VideoHeader(num_frames=240, fps=fps, width=640, height=480)
    assert plan_video(header, MediaOptions(), CONFIG, LIMITS) == plan_video(
        HEADER, MediaOptions(), CONFIG, LIMITS
    )


def test_max_frames_replaces_the_checkpoints() -> None:
    assert len(plan_video(HEADER, MediaOptions(max_frames=6), CONFIG, LIMITS).indices) == 6


def test_server_limit_bounds_frames_without_options() -> None:
    plan = plan_video(HEADER, MediaOptions(), CONFIG, MediaLimits(max_frames=8))
    assert len(plan.indices) == 8


def test_window_is_sampled_with_times_of_the_whole_file() -> None:
    options = MediaOptions(video_start=4.01, video_end=6.0, num_frames=4)
    plan = plan_video(HEADER, options, CONFIG, LIMITS)
    # ceil(4.01 * 24) = 97, floor(6 * 24) = 144
    assert plan.indices == (97, 113, 128, 144)
    assert plan.timestamps == pytest.approx(((97 + 113) / 48, (128 + 144) / 48))


def window(start: float, end: float, fps: float = 30.0, **options: float) -> tuple[int, ...]:
    header = VideoHeader(num_frames=int(60 * fps), fps=fps, width=640, height=360)
    options_ = MediaOptions(video_start=start, video_end=end, **options)
    return plan_video(header, options_, CONFIG, LIMITS).indices


@pytest.mark.parametrize("source_fps", [30.0, 24.0, 29.97, 25.0, 2.0, 1.0])
def test_overlapping_windows_share_the_temporal_patches_of_their_overlap(source_fps: float) -> None:
    first, second = window(8, 24, source_fps), window(12, 28, source_fps)
    pairs = [set(zip(indices[::2], indices[1::2], strict=True)) for indices in (first, second)]
    assert len(pairs[0] & pairs[1]) >= 0.7 * len(pairs[0])
    assert all(8 * source_fps <= index <= 24 * source_fps for index in first)


def test_window_has_about_as_many_frames_as_its_rate_says() -> None:
    assert len(window(3.3, 13.3)) in (18, 20)
    assert window(4.0, 6.0) == (120, 135, 150, 165)


@pytest.mark.parametrize(
    "options", [{"start": 0.1, "end": 1.0}, {"start": 0, "end": 60, "max_frames": 8}]
)
def test_window_of_too_few_or_too_many_frames_on_the_grid_is_spread_evenly(options) -> None:
    indices = window(options.pop("start"), options.pop("end"), **options)
    assert len(indices) in (4, 8)
    assert indices[0] in (0, 3) and indices[-1] in (30, 1799)


def test_window_is_clamped_to_the_file() -> None:
    options = MediaOptions(video_start=9.0, video_end=1000.0, num_frames=2)
    assert plan_video(HEADER, options, CONFIG, LIMITS).indices == (216, 239)


@pytest.mark.parametrize("options", [{"video_start": 10.0}, {"video_end": 0.02}])
def test_window_without_two_frames_is_an_invalid_option(options: dict[str, float]) -> None:
    with pytest.raises(InvalidOption) as error:
        plan_video(HEADER, MediaOptions(**options), CONFIG, LIMITS)
    assert error.value.code == "empty_video_window"


def test_video_of_one_frame_counts_as_two() -> None:
    header = VideoHeader(num_frames=1, fps=24.0, width=640, height=480)
    plan = plan_video(header, MediaOptions(), CONFIG, LIMITS)
    assert plan.indices == (0, 0)
    assert plan.timestamps == (0.0,)


def test_too_long_a_video_is_refused_with_its_duration() -> None:
    with pytest.raises(MediaTooLarge, match=r"10.0 s exceeds max_video_duration_s \(9\)"):
        plan_video(HEADER, MediaOptions(), CONFIG, MediaLimits(max_video_duration_s=9.0))


def test_too_large_frames_are_refused() -> None:
    with pytest.raises(MediaTooLarge, match="max_source_pixels"):
        plan_video(HEADER, MediaOptions(), CONFIG, MediaLimits(max_source_pixels=1000))


def clip_area(num_frames: int, config: PreprocessorConfig = CONFIG, **options: Any) -> int:
    """frames * height * width of a large clip after resizing."""
    indices = tuple(range(num_frames))
    plan = plan_clip(indices, 24.0, 2160, 3840, MediaOptions(**options), config, LIMITS)
    return num_frames * plan.height * plan.width


def test_max_pixels_of_a_video_counts_per_frame() -> None:
    assert 8 * 90_000 < clip_area(8, max_pixels=100_000) <= 8 * 100_000


def test_max_pixels_per_frame_cannot_pass_the_checkpoints_total() -> None:
    assert clip_area(64, max_pixels=LIMITS.max_pixels) <= CONFIG.video_max_pixels


def test_total_pixels_is_in_units_of_temporal_patches() -> None:
    assert 1_800_000 < clip_area(8, total_pixels=1_000_000) <= 2_000_000


def test_total_pixels_replaces_the_checkpoints_maximum() -> None:
    small = PreprocessorConfig(video_max_pixels=500_000)
    assert clip_area(8, small) <= 500_000
    assert 1_800_000 < clip_area(8, small, total_pixels=1_000_000) <= 2_000_000


def test_min_pixels_of_a_video_counts_per_frame() -> None:
    options = MediaOptions(min_pixels=100_000)
    plan = plan_clip((0, 1, 2, 3), 24.0, 64, 64, options, CONFIG, LIMITS)
    assert 100_000 <= plan.height * plan.width < 125_000


def test_min_pixels_gives_way_to_the_total() -> None:
    options = MediaOptions(min_pixels=1_000_000)
    indices = tuple(range(768))
    plan = plan_clip(indices, 24.0, 480, 640, options, CONFIG, LIMITS)
    assert plan.height * plan.width < 40_000  # 25.2 M / 768 = 32.8 k, grown to multiples of 32


def test_frame_list_uses_every_frame_at_two_per_second() -> None:
    plan = plan_frame_list(3, 480, 640, MediaOptions(), CONFIG, LIMITS)
    assert plan.indices == (0, 1, 2, 2)
    assert plan.timestamps == (0.25, 1.0)


def test_frame_list_takes_its_rate_from_the_option() -> None:
    plan = plan_frame_list(4, 480, 640, MediaOptions(fps=1.0), CONFIG, LIMITS)
    assert plan.timestamps == (0.5, 2.5)


@pytest.mark.parametrize("options", [{"num_frames": 2}, {"video_start": 0.0}, {"video_end": 1.0}])
def test_frame_list_refuses_options_of_files(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=next(iter(options))):
        plan_frame_list(4, 480, 640, MediaOptions(**options), CONFIG, LIMITS)


def test_too_many_frames_in_a_list_are_too_large() -> None:
    with pytest.raises(MediaTooLarge, match=r"5 frames exceed max_frames \(4\)"):
        plan_frame_list(5, 480, 640, MediaOptions(max_frames=4), CONFIG, LIMITS)


def test_empty_frame_list_is_refused() -> None:
    with pytest.raises(InvalidOption, match="at least one"):
        plan_frame_list(0, 480, 640, MediaOptions(), CONFIG, LIMITS)
