"""The media and options for which goldens exist; shared by make_goldens.py and its test."""

import re
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """Files of tests/media and how they are preprocessed.

    `options` are fields of `MediaOptions`; `reference` says the same to transformers.
    """

    name: str
    files: tuple[str, ...]
    options: dict[str, float] = field(default_factory=dict)
    reference: dict[str, object] = field(default_factory=dict)


def _pixels(shortest_edge: int, longest_edge: int) -> dict[str, object]:
    return {"size": {"shortest_edge": shortest_edge, "longest_edge": longest_edge}}


IMAGES = (
    *(
        Case(name, (name,))
        for name in (
            "astronaut.bmp",
            "astronaut_alpha.webp",
            "astronaut_gray16.png",
            "astronaut_progressive.jpg",
            "cat_exif5.png",
            "cat_exif6.jpg",
            "cat_gray_alpha.png",
            "cat_palette.png",
            "cat_rgba.png",
            "cat_tiny.png",
            "coffee.avif",
            "coffee.webp",
            "coffee_cmyk.jpg",
            "coffee_wide.png",
            "rocket.jpg",
            "rocket.tiff",
            "rocket_animated.gif",
            "text_1bit.png",
            "text_gray.jpg",
        )
    ),
    Case(
        "rocket.jpg max_pixels",
        ("rocket.jpg",),
        {"max_pixels": 100_000},
        _pixels(65_536, 100_000),
    ),
    Case(
        "cat_exif6.jpg min_pixels",
        ("cat_exif6.jpg",),
        {"min_pixels": 500_000},
        _pixels(500_000, 16_777_216),
    ),
    Case(
        "cat_tiny.png small bounds",
        ("cat_tiny.png",),
        {"min_pixels": 1024, "max_pixels": 4096},
        _pixels(1024, 4096),
    ),
)

VIDEOS = (
    Case("bunny_25fps.mp4", ("bunny_25fps.mp4",)),
    Case("bunny_ntsc.mov", ("bunny_ntsc.mov",)),
    Case("bunny_24fps.webm", ("bunny_24fps.webm",)),
    Case("bunny_10fps.mkv", ("bunny_10fps.mkv",)),
    Case("bunny_3_frames.mp4", ("bunny_3_frames.mp4",)),
    Case("bunny_rotated.mp4", ("bunny_rotated.mp4",)),
    Case("bunny_25fps.mp4 fps", ("bunny_25fps.mp4",), {"fps": 3.7}, {"fps": 3.7}),
    Case("bunny_10fps.mkv fps", ("bunny_10fps.mkv",), {"fps": 0.5}, {"fps": 0.5}),
    Case(
        "bunny_24fps.webm num_frames",
        ("bunny_24fps.webm",),
        {"num_frames": 7},
        {"num_frames": 7, "fps": None},
    ),
    Case(
        "bunny_25fps.mp4 total_pixels",
        ("bunny_25fps.mp4",),
        {"total_pixels": 50_000},  # two frames share a temporal patch: half of the reference's unit
        _pixels(4_096, 100_000),
    ),
)

_FRAMES = tuple(f"bunny_frame_{number}.jpg" for number in range(1, 6))

# Lists of frames, taken at 2 frames per second unless the request says so; one is odd in number.
FRAME_LISTS = (
    Case("frames", _FRAMES),
    Case("frames fps", _FRAMES[:4], {"fps": 5.0}),
)

_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
_VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
PROMPT = (
    f"<|im_start|>user\n{_IMAGE}{_VIDEO}Which one moves?<|im_end|>\n"
    "<|im_start|>assistant\nThe 2nd.<|im_end|>\n"
    f"<|im_start|>user\nLike 12 {_VIDEO} or{_IMAGE}{_VIDEO}\n\n?<|im_end|>\n"
    "<|im_start|>assistant\n"
)
PROMPT_IMAGES = ("cat_palette.png", "astronaut.bmp")
PROMPT_VIDEOS = ("bunny_24fps.webm", "bunny_3_frames.mp4", "bunny_ntsc.mov")


def collapsed(text: str) -> str:
    """Runs of placeholders as `<|image_pad|>*80`."""
    return re.sub(
        r"(<\|(?:image|video)_pad\|>)\1*",
        lambda run: f"{run[1]}*{len(run[0]) // len(run[1])}",
        text,
    )
