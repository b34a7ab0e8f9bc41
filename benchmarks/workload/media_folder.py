"""Images and videos from a folder."""

from collections.abc import Collection, Sequence
from pathlib import Path

from benchmarks.workload.clip import sample_frames
from benchmarks.workload.error import WorkloadError
from benchmarks.workload.media_file import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    image_file_part,
    image_mime,
    video_file_part,
)
from benchmarks.workload.message import Part
from benchmarks.workload.shuffle import shuffled_position


class MediaFolder:
    """All files of the folder and those below it, each once before any comes again.

    Args:
        video_seconds: of a video, that `frames` reads at most.
    Raises: WorkloadError if the folder does not exist or an image in it cannot be read.
    """

    def __init__(self, folder: Path, seed: int, video_seconds: float) -> None:
        if not folder.is_dir():
            raise WorkloadError(f"media folder {folder} does not exist")
        self._seed = seed
        self._video_seconds = video_seconds
        self._images = _files(folder, IMAGE_SUFFIXES)
        self._videos = _files(folder, VIDEO_SUFFIXES)
        for path in self._images:
            image_mime(path)

    @property
    def num_images(self) -> int:
        return len(self._images)

    @property
    def num_videos(self) -> int:
        return len(self._videos)

    def image(self, number: int) -> Part:
        return image_file_part(self._pick(self._images, number))

    page = image
    screenshot = image

    def video(self, number: int) -> Part:
        return video_file_part(self._pick(self._videos, number))

    def frames(self, number: int) -> Sequence[bytes]:
        return sample_frames(self._pick(self._videos, number), self._video_seconds)

    def _pick(self, paths: Sequence[Path], number: int) -> Path:
        return paths[shuffled_position(self._seed, number, len(paths))]


def _files(folder: Path, suffixes: Collection[str]) -> Sequence[Path]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in files if path.suffix.lower() in suffixes)
