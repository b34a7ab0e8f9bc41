"""What the flags of a workload say."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.workload.error import WorkloadError
from benchmarks.workload.image_sizes import ImageSizes
from benchmarks.workload.int_range import IntRange

WorkloadName = Literal[
    "chat", "images", "reuse", "agent", "documents", "video", "windows", "mixed", "mlperf"
]

_INPUT_TOKENS = IntRange(32, 128)
_OUTPUT_TOKENS = IntRange(64, 128)
_IMAGE_SIZES = ImageSizes.parse("640x480:3,1024x768:5,1920x1080:2")


_MAX_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class WorkloadOptions:
    """Every field has a flag of the same name. Raises: WorkloadError for a value out of bounds.

    Attributes:
        name: of the workload; a dataset takes its place.
        seed: conversations of two seeds have nothing in common.
        input_tokens: about so many tokens of text in each question; `usage` has the true number.
        output_tokens: `max_tokens` of a turn is drawn from it.
        image_sizes: of drawn images, other than pages and an agent's screenshots.
        images_per_request: of `images`.
        reuse: share of the requests of `reuse` that are about an image of an earlier one, 0 to 1.
        turns: of an agent's conversation.
        pages: of each document of `documents`.
        questions: about each document, in one conversation.
        video_seconds: length of a drawn clip; a file of `media_dir` is cut to it for `windows`.
        window_seconds: length of each of the windows that slide over a clip.
        stride_seconds: from the start of a window to the start of the next.
        media_dir: a folder of images and videos to use instead of drawn ones.
        dataset: a JSON Lines file of conversations, of the ShareGPT or the OpenAI form.
    """

    name: WorkloadName = "chat"
    seed: int = 0
    input_tokens: IntRange = _INPUT_TOKENS
    output_tokens: IntRange = _OUTPUT_TOKENS
    image_sizes: ImageSizes = _IMAGE_SIZES
    images_per_request: int = 1
    reuse: float = 0.5
    turns: int = 8
    pages: int = 10
    questions: int = 4
    video_seconds: float = 16.0
    window_seconds: float = 8.0
    stride_seconds: float = 2.0
    media_dir: Path | None = None
    dataset: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.reuse <= 1:
            raise WorkloadError(f"reuse: {self.reuse} is not a share from 0 to 1")
        for field in ("images_per_request", "turns", "pages", "questions"):
            if getattr(self, field) < 1:
                raise WorkloadError(f"{field}: {getattr(self, field)} is less than 1")
        # Two frames at the rate of windows make a temporal patch: nothing is shorter.
        for field in ("video_seconds", "window_seconds", "stride_seconds"):
            if not 1 <= getattr(self, field) <= _MAX_SECONDS:
                raise WorkloadError(
                    f"{field}: {getattr(self, field)} s is not from 1 to {_MAX_SECONDS} s"
                )
