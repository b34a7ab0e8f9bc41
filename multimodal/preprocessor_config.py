"""The checkpoint's own preprocessing numbers, read from its `preprocessor_config.json` files."""

from dataclasses import dataclass

from multimodal.checkpoint_files import read_checkpoint_json


@dataclass(frozen=True, slots=True)
class PreprocessorConfig:
    """Preprocessing of one checkpoint. Defaults are those of the published Qwen3-VL checkpoints.

    Pixel bounds are areas: `image_*` of one resized image, `video_*` of frames * height * width of
    a resized clip. `fps` is the sampling rate in frames per second of video time.
    """

    patch_size: int = 16
    temporal_patch_size: int = 2
    merge_size: int = 2
    image_min_pixels: int = 65_536
    image_max_pixels: int = 16_777_216
    video_min_pixels: int = 4_096
    video_max_pixels: int = 25_165_824
    fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 768
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @property
    def factor(self) -> int:
        """Sides of resized images are multiples of it: an LLM token covers a square of this."""
        return self.patch_size * self.merge_size

    @property
    def max_item_tokens(self) -> int:
        """The most LLM tokens that one visual item can take."""
        frame_pixels = self.video_max_pixels // self.temporal_patch_size
        return max(self.image_max_pixels, frame_pixels) // self.factor**2


def load_preprocessor_config(model: str, revision: str | None = None) -> PreprocessorConfig:
    """Read `preprocessor_config.json` and `video_preprocessor_config.json` of a checkpoint.

    Args:
        model: a local folder or a Hugging Face repository name.
    Raises: FileNotFoundError if the checkpoint has no `preprocessor_config.json`; OSError if it
        cannot be fetched; ValueError if its image and video halves disagree on patch geometry or
        normalisation.
    """
    image = read_checkpoint_json(model, "preprocessor_config.json", revision)
    if image is None:
        raise FileNotFoundError(f"{model} has no preprocessor_config.json")
    video = read_checkpoint_json(model, "video_preprocessor_config.json", revision) or image
    shared = ("patch_size", "temporal_patch_size", "merge_size", "image_mean", "image_std")
    for name in shared:
        if image.get(name) != video.get(name):
            raise ValueError(f"{model}: {name} differs between image and video preprocessor")
    default = PreprocessorConfig()
    image_size, video_size = image.get("size", {}), video.get("size", {})
    return PreprocessorConfig(
        patch_size=image.get("patch_size", default.patch_size),
        temporal_patch_size=image.get("temporal_patch_size", default.temporal_patch_size),
        merge_size=image.get("merge_size", default.merge_size),
        image_min_pixels=image_size.get("shortest_edge", default.image_min_pixels),
        image_max_pixels=image_size.get("longest_edge", default.image_max_pixels),
        video_min_pixels=video_size.get("shortest_edge", default.video_min_pixels),
        video_max_pixels=video_size.get("longest_edge", default.video_max_pixels),
        fps=video.get("fps", default.fps),
        min_frames=video.get("min_frames", default.min_frames),
        max_frames=video.get("max_frames", default.max_frames),
        image_mean=tuple(image.get("image_mean", default.image_mean)),
        image_std=tuple(image.get("image_std", default.image_std)),
    )
