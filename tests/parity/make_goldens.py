"""Writes tests/parity/goldens/preprocessing.json with transformers' own processors. See README.md.

    python tests/parity/make_goldens.py        (an environment with torchvision; not the project's)

Pixels are taken before rescaling and normalising, as uint8 in the reference's order: rows of
patches, each (channel, frame, row, column).
"""

import hashlib
import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from decord import VideoReader
from PIL import Image, ImageOps
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.video_utils import VideoMetadata

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import golden_cases as cases  # noqa: E402

from demo.tokenizer import build_tokenizer  # noqa: E402

MEDIA = HERE.parent / "media"
NUM_SAMPLES = 64
# The published checkpoints' settings.
SHARED = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2}
RAW = {"do_rescale": False, "do_normalize": False}
IMAGE_SIZE = {"shortest_edge": 65_536, "longest_edge": 16_777_216}
VIDEO_SIZE = {"shortest_edge": 4_096, "longest_edge": 25_165_824}

Golden = dict[str, object]


def main() -> None:
    images = Qwen2VLImageProcessor(**SHARED, **RAW, size=IMAGE_SIZE)
    videos = Qwen3VLVideoProcessor(
        **SHARED,
        **RAW,
        size=VIDEO_SIZE,
        fps=2,
        min_frames=4,
        max_frames=768,
        cap_pixels_per_frame=False,
    )
    packages = ("transformers", "torch", "torchvision", "pillow", "decord2", "numpy")
    goldens = {
        "made_with": {name: version(name) for name in packages},
        "images": {case.name: image_golden(images, case) for case in cases.IMAGES},
        "videos": {case.name: video_golden(videos, case) for case in cases.VIDEOS},
        "frame_lists": {case.name: frames_golden(videos, case) for case in cases.FRAME_LISTS},
        "prompt": prompt_golden(images, videos, build_tokenizer()),
    }
    text = json.dumps(goldens, indent=1)
    (HERE / "goldens" / "preprocessing.json").write_text(text + "\n")


def image_golden(processor: Qwen2VLImageProcessor, case: cases.Case) -> Golden:
    rgb = read_image(case.files[0])
    output = processor(images=Image.fromarray(rgb), return_tensors="pt", **case.reference)
    return golden(rgb, output["image_grid_thw"][0], output["pixel_values"])


def video_golden(processor: Qwen3VLVideoProcessor, case: cases.Case) -> Golden:
    frames, fps = read_video(case.files[0])
    metadata = VideoMetadata(total_num_frames=len(frames), fps=fps)
    return clip_golden(processor, frames, metadata, case.reference)


def frames_golden(processor: Qwen3VLVideoProcessor, case: cases.Case) -> Golden:
    frames = np.stack([read_image(name) for name in case.files])
    fps = float(case.options.get("fps", 2.0))
    indices = list(range(len(frames)))
    metadata = VideoMetadata(total_num_frames=len(frames), fps=fps, frames_indices=indices)
    return clip_golden(processor, frames, metadata, {"do_sample_frames": False})


def clip_golden(
    processor: Qwen3VLVideoProcessor,
    frames: np.ndarray,
    metadata: VideoMetadata,
    arguments: dict[str, object],
) -> Golden:
    output = processor(
        videos=[frames], video_metadata=[metadata], return_metadata=True, return_tensors="pt",
        **arguments,
    )  # fmt: skip
    metadata = output["video_metadata"][0]
    indices = [int(index) for index in metadata.frames_indices]
    result = golden(frames[indices], output["video_grid_thw"][0], output["pixel_values_videos"])
    timestamps = Qwen3VLProcessor._calculate_timestamps(None, list(indices), metadata.fps)
    return result | {"frame_indices": indices, "timestamps": timestamps}


def prompt_golden(
    images: Qwen2VLImageProcessor,
    videos: Qwen3VLVideoProcessor,
    tokenizer: PreTrainedTokenizerFast,
) -> Golden:
    """Text in, text out: token ids depend on the tokenizer, the layout does not."""
    processor = Qwen3VLProcessor(images, tokenizer, videos)
    clips = [read_video(name) for name in cases.PROMPT_VIDEOS]
    output = processor(
        text=[cases.PROMPT],
        images=[Image.fromarray(read_image(name)) for name in cases.PROMPT_IMAGES],
        videos=[frames for frames, _ in clips],
        video_metadata=[VideoMetadata(total_num_frames=len(f), fps=fps) for f, fps in clips],
    )
    expanded = tokenizer.decode(output["input_ids"][0])
    return {"prompt": cases.PROMPT, "expanded": cases.collapsed(expanded)}


def golden(source: np.ndarray, grid_thw: torch.Tensor, pixels: torch.Tensor) -> Golden:
    """`source_sha256` tells a difference in decoding from one in resizing."""
    assert pixels.dtype == torch.uint8
    flat = pixels.numpy().reshape(-1)
    places = np.linspace(0, flat.size - 1, NUM_SAMPLES).astype(int)
    return {
        "source_shape": list(source.shape),
        "source_sha256": hashlib.sha256(np.ascontiguousarray(source)).hexdigest(),
        "grid_thw": grid_thw.tolist(),
        "pixels_sha256": hashlib.sha256(flat).hexdigest(),
        "samples": bytes(flat[places]).hex(),
    }


def read_image(name: str) -> np.ndarray:
    """(H, W, 3) uint8 by the rules that this project documents, written down a second time."""
    image = Image.open(MEDIA / name)
    if image.mode == "I;16":  # 16-bit grey is scaled
        grey = np.rint(np.asarray(image).astype(np.float64) / 257).astype(np.uint8)
        return np.stack([grey] * 3, axis=-1)
    image = ImageOps.exif_transpose(image)
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    rgba = np.asarray(image.convert("RGBA")).astype(np.float64)
    alpha = rgba[..., 3:] / 255  # transparency is composited on white
    return np.rint(rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def read_video(name: str) -> tuple[np.ndarray, float]:
    """Every frame, decoded from first to last, and the frame rate."""
    reader = VideoReader(str(MEDIA / name))
    return np.stack([frame.asnumpy() for frame in reader]), reader.get_avg_fps()


if __name__ == "__main__":
    main()
