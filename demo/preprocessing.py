"""How the demo checkpoint wants its media: small, so that answers come at once on a CPU."""

from multimodal.grid import sample_frame_indices
from multimodal.options import MediaLimits, MediaOptions
from multimodal.plan import VideoHeader, VideoPlan, plan_image, plan_video
from multimodal.preprocessor_config import PreprocessorConfig

# A token covers 32 x 32 pixels: pictures become 16 to 40 tokens; a clip's temporal patches (two
# frames each) 64 to 96 tokens together.
PREPROCESSOR = PreprocessorConfig(
    image_min_pixels=16 * 32**2,
    image_max_pixels=40 * 32**2,
    video_min_pixels=2 * 64 * 32**2,
    video_max_pixels=2 * 96 * 32**2,
    fps=2.0,
    min_frames=4,
    max_frames=16,
)


def image_size(height: int, width: int) -> tuple[int, int]:
    """The (height, width) to which a picture is resized."""
    return plan_image(height, width, MediaOptions(), PREPROCESSOR, MediaLimits())


def video_plan(num_frames: int, fps: float, height: int, width: int) -> VideoPlan:
    """The frames, timestamps and size that are used of a clip."""
    header = VideoHeader(num_frames, fps, width, height)
    return plan_video(header, MediaOptions(), PREPROCESSOR, MediaLimits())


def num_sampled(num_frames: int, fps: float) -> int:
    """How many frames of a clip are used, before the last temporal patch is filled up."""
    indices = sample_frame_indices(
        num_frames,
        fps,
        fps=PREPROCESSOR.fps,
        num_frames=None,
        min_frames=PREPROCESSOR.min_frames,
        max_frames=PREPROCESSOR.max_frames,
    )
    return len(indices)
