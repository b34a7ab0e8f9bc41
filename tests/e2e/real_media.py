"""Files of `tests/media` as data URLs, and the tokens that they take."""

import base64
from pathlib import Path
from typing import Any

from multimodal.grid import resized_image_size, resized_video_size, sample_frame_indices
from multimodal.preprocessor_config import PreprocessorConfig
from tests.fake_backend import image_part, video_part

MEDIA = Path(__file__).parents[1] / "media"
FRAMES = tuple(f"bunny_frame_{index}.jpg" for index in range(1, 6))
_CONFIG = PreprocessorConfig()  # the tiny checkpoints have the published numbers
_BUNNY = {"num_frames": 74, "fps": 25.0, "width": 320, "height": 180}


def encode(name: str) -> str:
    return base64.b64encode((MEDIA / name).read_bytes()).decode()


def image(name: str = "rocket.jpg", **options: Any) -> dict[str, Any]:
    return image_part(f"data:image/{name.rpartition('.')[2]};base64,{encode(name)}", **options)


def video(name: str = "bunny_25fps.mp4", **options: Any) -> dict[str, Any]:
    return video_part(f"data:video/mp4;base64,{encode(name)}", **options)


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def count_image_tokens(width: int, height: int, **bounds: int) -> int:
    defaults = {"min_pixels": _CONFIG.image_min_pixels, "max_pixels": _CONFIG.image_max_pixels}
    rows, columns = resized_image_size(
        height, width, factor=_CONFIG.factor, **{**defaults, **bounds}
    )
    return rows * columns // _CONFIG.factor**2


def count_bunny_tokens(fps: float = _CONFIG.fps, num_frames: int | None = None) -> int:
    """Tokens of `bunny_25fps.mp4`, without its timestamps."""
    indices = sample_frame_indices(
        _BUNNY["num_frames"],
        _BUNNY["fps"],
        fps=fps,
        num_frames=num_frames,
        min_frames=_CONFIG.min_frames,
        max_frames=_CONFIG.max_frames,
    )
    return count_clip_tokens(len(indices), _BUNNY["width"], _BUNNY["height"])


def count_clip_tokens(num_frames: int, width: int, height: int) -> int:
    rows, columns = resized_video_size(
        num_frames,
        height,
        width,
        temporal_factor=_CONFIG.temporal_patch_size,
        factor=_CONFIG.factor,
        min_pixels=_CONFIG.video_min_pixels,
        max_pixels=_CONFIG.video_max_pixels,
    )
    num_temporal_patches = -(-num_frames // _CONFIG.temporal_patch_size)
    return num_temporal_patches * rows * columns // _CONFIG.factor**2
