"""Clips: a camera that moves over a photograph, as a file or as single frames; files sampled."""

import random
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from benchmarks.pictures import photo
from benchmarks.workload.error import WorkloadError
from benchmarks.workload.text_area import Pixels

SAMPLED_FPS = 2  # the models' own default
_FPS = 24
_SIZE = (1280, 720)
_PAN = (509, 431)  # pixels to the right and down before the camera turns; no common factor


def draw_mp4(generator: random.Random, seconds: float) -> bytes:
    """An MP4 file."""
    return write_mp4(_frames(generator, seconds, step=1), _FPS)


def write_mp4(frames: Iterable[Pixels], fps: float) -> bytes:
    """MPEG-4 Part 2, of BGR frames of one size."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        writer: cv2.VideoWriter | None = None
        for frame in frames:
            if writer is None:
                height, width = frame.shape[:2]
                codec = cv2.VideoWriter.fourcc(*"mp4v")
                writer = cv2.VideoWriter(str(path), codec, fps, (width, height))
            writer.write(frame)
        assert writer is not None  # there are frames
        writer.release()
        return path.read_bytes()


def write_jpeg(frame: Pixels) -> bytes:
    """Of a BGR frame."""
    return cv2.imencode(".jpg", frame)[1].tobytes()


def draw_frames(generator: random.Random, seconds: float) -> Sequence[bytes]:
    """JPEG files, `SAMPLED_FPS` for each second of a clip."""
    return [write_jpeg(frame) for frame in _frames(generator, seconds, step=_FPS // SAMPLED_FPS)]


def sample_frames(path: Path, seconds: float) -> Sequence[bytes]:
    """As `draw_frames`, from the first seconds of a file. Raises: WorkloadError."""
    video = cv2.VideoCapture(str(path))
    fps = video.get(cv2.CAP_PROP_FPS)
    frames: list[bytes] = []
    index = 0
    while fps > 0 and len(frames) < seconds * SAMPLED_FPS and video.grab():
        if index >= len(frames) * fps / SAMPLED_FPS:
            frames.append(write_jpeg(np.asarray(video.retrieve()[1], dtype=np.uint8)))
        index += 1
    video.release()
    if not frames:
        raise WorkloadError(f"{path}: no frames can be read from it")
    return frames


def _frames(generator: random.Random, seconds: float, step: int) -> Iterator[Pixels]:
    """Every `step`-th frame, BGR, as OpenCV wants them. No two are alike for hours."""
    width, height = _SIZE
    scene = photo(generator.getrandbits(32), width + _PAN[0], height + _PAN[1])
    pixels = np.ascontiguousarray(np.asarray(scene)[..., ::-1])
    for index in range(0, int(seconds * _FPS), step):
        left, top = (_back_and_forth(index, pan) for pan in _PAN)
        yield np.ascontiguousarray(pixels[top : top + height, left : left + width])


def _back_and_forth(index: int, length: int) -> int:
    position = index % (2 * length)
    return min(position, 2 * length - position)
