"""Encoded media for tests, made in code."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def gradient(width: int, height: int) -> np.ndarray:
    """(height, width, 3) uint8 in which every corner and every channel differs."""
    rows = np.linspace(0, 200, height)[:, None]
    columns = np.linspace(0, 55, width)[None, :]
    red = rows + columns
    return np.stack([red, 255 - red, columns * 4 + rows / 5], axis=-1).round().astype(np.uint8)


def encode(image: Image.Image | np.ndarray, format: str = "PNG", **options: Any) -> bytes:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def exif_with_orientation(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def grey_level(index: int) -> int:
    """The grey of frame `index` in the videos made here: neighbours differ by 4."""
    return 10 + 4 * index


def frame_number(decoded: np.ndarray) -> int:
    """Which frame of such a video this is; the decoder's colour conversion darkens by about 3."""
    return round((float(decoded.mean()) + 2.7 - grey_level(0)) / 4)


def make_video(
    folder: Path,
    *,
    num_frames: int = 48,
    fps: float = 24.0,
    width: int = 96,
    height: int = 64,
    suffix: str = ".mp4",
) -> bytes:
    """A video whose frames are plain grey, each brighter than the one before."""
    import cv2

    path = folder / f"video{suffix}"
    codec = cv2.VideoWriter_fourcc(*{".mp4": "mp4v", ".mkv": "mp4v", ".webm": "VP90"}[suffix])
    writer = cv2.VideoWriter(str(path), codec, fps, (width, height))
    assert writer.isOpened()
    for index in range(num_frames):
        writer.write(np.full((height, width, 3), grey_level(index), np.uint8))
    writer.release()
    return path.read_bytes()


def rotated_by_matrix(video: bytes, width: int) -> bytes:
    """An MP4 whose track header asks the player for a quarter turn, as phones write it."""
    quarter_turn = (0, 1 << 16, 0, -(1 << 16), 0, 0, width << 16, 0, 1 << 30)
    matrix = b"".join(value.to_bytes(4, "big", signed=True) for value in quarter_turn)
    # After the type: version and flags (4), times, id, reserved, duration (20), reserved and
    # layer, group, volume, reserved (16).
    start = video.index(b"tkhd") + 4 + 4 + 20 + 16
    return video[:start] + matrix + video[start + len(matrix) :]
