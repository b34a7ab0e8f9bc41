"""What one request brings, in tokens: counted by the functions that prepare real requests."""

from dataclasses import dataclass

from multimodal.options import MediaLimits, MediaOptions
from multimodal.plan import VideoHeader, check_image_header, plan_image, plan_video
from multimodal.preprocessor_config import PreprocessorConfig

_SOURCE_FPS = 24.0
_MARKERS = 2  # <|vision_start|>, <|vision_end|>
_TIMESTAMP_EXTRA = 3  # `<`, ` seconds`, `>`; of `<12.5 seconds>` every other character is a token


@dataclass(frozen=True, slots=True)
class Workload:
    """The requests to plan for.

    Attributes:
        concurrency: requests at once, over all replicas.
        prompt_tokens: text, the chat template's included.
        image_size: (width, height) in pixels before resizing, of video frames too.
        video_seconds: of one video per request; 0 for none.
    """

    concurrency: int = 16
    prompt_tokens: int = 512
    images_per_request: int = 1
    image_size: tuple[int, int] = (1024, 1024)
    video_seconds: float = 0.0
    max_output_tokens: int = 1024


@dataclass(frozen=True, slots=True)
class RequestTokens:
    """Tokens of one request.

    Attributes:
        image: visual tokens of one image.
        images: of all images, with their markers.
        video: of the video, with markers and timestamps.
        visual: those that have an embedding, of images and video.
    """

    text: int
    image: int
    images: int
    video: int
    visual: int
    output: int

    @property
    def total(self) -> int:
        return self.text + self.images + self.video + self.output


def request_tokens(workload: Workload, config: PreprocessorConfig) -> RequestTokens:
    """Raises: MediaError for sizes that the server would refuse."""
    limits = MediaLimits()
    width, height = workload.image_size
    check_image_header(width, height, limits)
    resized = plan_image(height, width, MediaOptions(), config, limits)
    image = _visual_tokens(resized, config)
    video_visual, video_all = _video_tokens(workload, config, limits)
    return RequestTokens(
        text=workload.prompt_tokens,
        image=image,
        images=workload.images_per_request * (image + _MARKERS),
        video=video_all,
        visual=workload.images_per_request * image + video_visual,
        output=workload.max_output_tokens,
    )


def _visual_tokens(size: tuple[int, int], config: PreprocessorConfig) -> int:
    """height * width / (patch_size * merge_size)**2"""
    return size[0] * size[1] // config.factor**2


def _video_tokens(
    workload: Workload, config: PreprocessorConfig, limits: MediaLimits
) -> tuple[int, int]:
    """(with an embedding, all): timestamps and markers for every temporal patch, and once around.

    A timestamp `<12.5 seconds>` counts a token for each character of the number, and three.
    """
    if workload.video_seconds <= 0:
        return 0, 0
    width, height = workload.image_size
    num_frames = max(1, round(workload.video_seconds * _SOURCE_FPS))
    header = VideoHeader(num_frames, _SOURCE_FPS, width, height)
    plan = plan_video(header, MediaOptions(), config, limits)
    visual = len(plan.timestamps) * _visual_tokens((plan.height, plan.width), config)
    stamps = sum(len(f"{seconds:.1f}") + _TIMESTAMP_EXTRA for seconds in plan.timestamps)
    return visual, visual + stamps + _MARKERS * (len(plan.timestamps) + 1)
