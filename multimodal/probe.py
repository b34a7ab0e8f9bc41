"""What is known of a media item before it is decoded: digests, sizes, and what loading it costs."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from multimodal.errors import InvalidOption
from multimodal.image import ImageHeader, check_image_bytes, probe_image
from multimodal.items import FramesRef, ImageRef, MediaRef
from multimodal.keys import bytes_digest
from multimodal.options import MediaLimits, MediaOptions
from multimodal.plan import (
    RGB_BYTES,
    VideoPlan,
    check_frame_list,
    check_image_header,
    check_options,
    plan_frame_list,
    plan_image,
)
from multimodal.preprocessor_config import PreprocessorConfig
from multimodal.video import check_video_file

Identity = tuple[type[MediaRef], tuple[str, ...], MediaOptions]


@dataclass(frozen=True, slots=True)
class MediaCost:
    """What loading one media item takes.

    Attributes:
        num_bytes: RGB held at once.
        num_source_pixels: decoded from images and listed frames; decoding a video file is bounded
            by time instead.
        num_tokens: placeholders in the prompt.
    """

    num_bytes: int = 0
    num_source_pixels: int = 0
    num_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ProbedMedia:
    """A ref whose headers were read and found within the limits.

    Attributes:
        digests: of its files, in order.
        cost: nothing for a video file, whose header is read by the process that decodes it.
    """

    ref: MediaRef
    digests: tuple[str, ...]
    cost: MediaCost

    @property
    def identity(self) -> Identity:
        """Equal for refs that give the same visual items."""
        return type(self.ref), self.digests, self.ref.options


def probe_media(
    ref: MediaRef,
    config: PreprocessorConfig,
    limits: MediaLimits,
    check_cancelled: Callable[[], None],
) -> ProbedMedia:
    """Check options and headers of one item, and hash its files.

    Args:
        check_cancelled: called before each file; ends the work by what it raises.
    Raises: MediaError.
    """
    check_cancelled()
    if isinstance(ref, ImageRef):
        return _probe_image_ref(ref, config, limits)
    if isinstance(ref, FramesRef):
        return _probe_frames_ref(ref, config, limits, check_cancelled)
    check_options(ref.options, limits)
    check_video_file(ref.data, limits)
    return ProbedMedia(ref, (bytes_digest(ref.data),), MediaCost())


def clip_cost(width: int, height: int, plan: VideoPlan, config: PreprocessorConfig) -> MediaCost:
    """Of a video file: one frame is held as decoded, and all of them resized."""
    resized_area = plan.width * plan.height
    return MediaCost(
        num_bytes=RGB_BYTES * (width * height + len(plan.indices) * resized_area),
        num_tokens=len(plan.timestamps) * resized_area // config.factor**2,
    )


def check_frame_size(index: int, width: int, height: int, first: ImageHeader) -> None:
    """Raises: InvalidOption if a frame of a list is not of the first one's size."""
    if (width, height) != (first.width, first.height):
        raise InvalidOption(
            f"frame {index} is {width}x{height}, frame 0 is {first.width}x{first.height}: "
            "all frames of a video must have one size",
            "frame_sizes_differ",
        )


def _probe_image_ref(ref: ImageRef, config: PreprocessorConfig, limits: MediaLimits) -> ProbedMedia:
    header = _checked_header(ref.data, limits)
    height, width = plan_image(header.height, header.width, ref.options, config, limits)
    source_area, area = header.width * header.height, width * height
    cost = MediaCost(
        num_bytes=RGB_BYTES * (source_area + area),
        num_source_pixels=source_area,
        num_tokens=area // config.factor**2,
    )
    return ProbedMedia(ref, (bytes_digest(ref.data),), cost)


def _probe_frames_ref(
    ref: FramesRef,
    config: PreprocessorConfig,
    limits: MediaLimits,
    check_cancelled: Callable[[], None],
) -> ProbedMedia:
    check_frame_list(len(ref.frames), ref.options, limits)
    first = _checked_header(ref.frames[0], limits)
    for index, frame in enumerate(ref.frames):
        check_cancelled()
        header = _checked_header(frame, limits)
        check_frame_size(index, header.width, header.height, first)
    plan = plan_frame_list(len(ref.frames), first.height, first.width, ref.options, config, limits)
    digests = tuple(bytes_digest(frame) for frame in ref.frames)
    cost = clip_cost(first.width, first.height, plan, config)
    num_source_pixels = len(ref.frames) * first.width * first.height
    return ProbedMedia(ref, digests, replace(cost, num_source_pixels=num_source_pixels))


def _checked_header(data: bytes, limits: MediaLimits) -> ImageHeader:
    check_image_bytes(data, limits)
    header = probe_image(data)
    check_image_header(header.width, header.height, limits)
    return header
