"""What is known of a media item before it is decoded: digests, sizes, items, and what it costs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from multimodal.errors import InvalidOption, MediaCorrupt
from multimodal.image import ImageHeader, check_image_bytes, probe_image
from multimodal.items import FramesRef, ImageRef, LoadedMedia, MediaRef, VideoRef
from multimodal.keys import bytes_digest
from multimodal.options import MediaLimits, MediaOptions
from multimodal.plan import (
    RGB_BYTES,
    VideoHeader,
    check_frame_list,
    check_image_header,
    check_options,
    plan_frame_list,
    plan_image,
    plan_video,
)
from multimodal.preprocessor_config import PreprocessorConfig
from multimodal.video_file import check_video_file
from multimodal.visual_items import (
    clip_outline,
    frame_list_identities,
    image_outline,
    temporal_groups,
    video_identities,
)

Identity = tuple[type[MediaRef], tuple[str, ...], MediaOptions]


@dataclass(frozen=True, slots=True)
class ProbedMedia:
    """A ref whose files were hashed, and whose image headers were read and found within the limits.

    Attributes:
        digests: of its files, in order.
        header: of the image, or of the first listed frame; a video file's is read later.
    """

    ref: MediaRef
    digests: tuple[str, ...]
    header: ImageHeader | None

    @property
    def identity(self) -> Identity:
        """Equal for refs that give the same visual items."""
        return type(self.ref), self.digests, self.ref.options


@dataclass(frozen=True, slots=True, eq=False)
class PlannedMedia:
    """A ref of which all is known but the pixels.

    Attributes:
        digest: of its first file.
        outline: its items, without patches.
        item_frames: for each item the numbers of its frames in the file or the list.
        frame_bytes: RGB of one decoded frame or image.
    """

    ref: MediaRef
    digest: str
    outline: LoadedMedia
    item_frames: tuple[tuple[int, ...], ...]
    frame_bytes: int

    def item_bytes(self, config: PreprocessorConfig) -> int:
        """RGB of one item after resizing."""
        item = self.outline.items[0]
        num_pixels = item.grid_h * item.grid_w * config.patch_size**2
        return RGB_BYTES * num_pixels * len(self.item_frames[0])

    def num_bytes(self, config: PreprocessorConfig) -> int:
        """RGB held at once while it is decoded: one frame, and all of them resized."""
        return self.frame_bytes + len(self.outline.items) * self.item_bytes(config)

    def num_tokens(self, config: PreprocessorConfig) -> int:
        """Placeholders in the prompt."""
        items = self.outline.items
        return sum(item.grid_h * item.grid_w for item in items) // config.merge_size**2

    def check_frame(self, header: VideoHeader) -> None:
        """What a video is decoded to is what was planned, and accounted for.

        Raises: MediaCorrupt if the file was opened again and says something else now.
        """
        if RGB_BYTES * header.width * header.height != self.frame_bytes:
            raise MediaCorrupt("the video cannot be decoded", "corrupt_video")

    @property
    def num_source_pixels(self) -> int:
        """Of images and listed frames; decoding a video file is bounded by time instead."""
        if isinstance(self.ref, VideoRef):
            return 0
        num_frames = len(self.ref.frames) if isinstance(self.ref, FramesRef) else 1
        return num_frames * self.frame_bytes // RGB_BYTES


def probe_media(
    ref: MediaRef, limits: MediaLimits, check_cancelled: Callable[[], None]
) -> ProbedMedia:
    """Check options and headers of one item, and hash its files.

    Args:
        check_cancelled: called before each file; ends the work by what it raises.
    Raises: MediaError.
    """
    check_cancelled()
    if isinstance(ref, ImageRef):
        header = _checked_header(ref.data, limits)
        return ProbedMedia(ref, (bytes_digest(ref.data),), header)
    if isinstance(ref, VideoRef):
        check_options(ref.options, limits)
        check_video_file(ref.data, limits)
        return ProbedMedia(ref, (bytes_digest(ref.data),), None)
    check_frame_list(len(ref.frames), ref.options, limits)
    first = _checked_header(ref.frames[0], limits)
    for index, frame in enumerate(ref.frames):
        check_cancelled()
        header = _checked_header(frame, limits)
        check_frame_size(index, header.width, header.height, first)
    return ProbedMedia(ref, tuple(map(bytes_digest, ref.frames)), first)


def plan_media(
    probed: ProbedMedia,
    video_header: VideoHeader | None,
    config: PreprocessorConfig,
    limits: MediaLimits,
    namespace: str,
) -> PlannedMedia:
    """Decide which frames are used and how large they become, and name the items.

    Args:
        video_header: for a video file.
    Raises: InvalidOption, MediaTooLarge.
    """
    ref, digests = probed.ref, probed.digests
    header = video_header or probed.header
    assert header is not None
    if isinstance(ref, ImageRef):
        size = plan_image(header.height, header.width, ref.options, config, limits)
        outline = image_outline(size, digests[0], config, namespace)
        item_frames: Sequence[tuple[int, ...]] = [(0,)]
    elif isinstance(ref, FramesRef):
        plan = plan_frame_list(
            len(ref.frames), header.height, header.width, ref.options, config, limits
        )
        identities = frame_list_identities(digests, plan)
        outline = clip_outline(plan, "frames", identities, config, namespace)
        item_frames = temporal_groups(plan)
    else:
        assert video_header is not None
        plan = plan_video(video_header, ref.options, config, limits)
        identities = video_identities(digests[0], plan)
        outline = clip_outline(plan, "video", identities, config, namespace)
        item_frames = temporal_groups(plan)
    frame_bytes = RGB_BYTES * header.width * header.height
    return PlannedMedia(ref, digests[0], outline, tuple(item_frames), frame_bytes)


def check_frame_size(index: int, width: int, height: int, first: ImageHeader) -> None:
    """Raises: InvalidOption if a frame of a list is not of the first one's size."""
    if (width, height) != (first.width, first.height):
        raise InvalidOption(
            f"frame {index} is {width}x{height}, frame 0 is {first.width}x{first.height}: "
            "all frames of a video must have one size",
            "frame_sizes_differ",
        )


def _checked_header(data: bytes, limits: MediaLimits) -> ImageHeader:
    check_image_bytes(data, limits)
    header = probe_image(data)
    check_image_header(header.width, header.height, limits)
    return header
