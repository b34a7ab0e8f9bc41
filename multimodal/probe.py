"""What is known of a media item before it is decoded: digests, sizes, and the memory it takes."""

from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class ProbedMedia:
    """A ref whose headers were read and found within the limits.

    Attributes:
        digests: of its files, in order.
        num_bytes: RGB that loading it will hold at once; 0 for a video file, whose header is read
            by the process that decodes it.
    """

    ref: MediaRef
    digests: tuple[str, ...]
    num_bytes: int

    @property
    def identity(self) -> tuple[type, tuple[str, ...], MediaOptions]:
        """Equal for refs that give the same visual items."""
        return type(self.ref), self.digests, self.ref.options


def probe_media(ref: MediaRef, config: PreprocessorConfig, limits: MediaLimits) -> ProbedMedia:
    """Check options and headers of one item, and hash its files. Raises: MediaError."""
    if isinstance(ref, ImageRef):
        return _probe_image_ref(ref, config, limits)
    if isinstance(ref, FramesRef):
        return _probe_frames_ref(ref, config, limits)
    check_options(ref.options, limits)
    check_video_file(ref.data, limits)
    return ProbedMedia(ref, (bytes_digest(ref.data),), 0)


def clip_bytes(width: int, height: int, plan: VideoPlan) -> int:
    """RGB held while a clip is loaded: one frame as decoded, and all of them resized."""
    return RGB_BYTES * (width * height + len(plan.indices) * plan.width * plan.height)


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
    num_bytes = RGB_BYTES * (header.width * header.height + width * height)
    return ProbedMedia(ref, (bytes_digest(ref.data),), num_bytes)


def _probe_frames_ref(
    ref: FramesRef, config: PreprocessorConfig, limits: MediaLimits
) -> ProbedMedia:
    check_frame_list(len(ref.frames), ref.options, limits)
    first = _checked_header(ref.frames[0], limits)
    for index, frame in enumerate(ref.frames):
        header = _checked_header(frame, limits)
        check_frame_size(index, header.width, header.height, first)
    plan = plan_frame_list(len(ref.frames), first.height, first.width, ref.options, config, limits)
    digests = tuple(bytes_digest(frame) for frame in ref.frames)
    return ProbedMedia(ref, digests, clip_bytes(first.width, first.height, plan))


def _checked_header(data: bytes, limits: MediaLimits) -> ImageHeader:
    check_image_bytes(data, limits)
    header = probe_image(data)
    check_image_header(header.width, header.height, limits)
    return header
