"""Images and videos in files, whose bytes are sent as they are."""

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from benchmarks.workload.error import WorkloadError
from benchmarks.workload.message import Part, file_part

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
_VIDEO_MIMES = {
    ".mp4": "video/mp4",
    ".mov": "video/quicktime",
    ".webm": "video/webm",
    ".mkv": "video/x-matroska",
}
VIDEO_SUFFIXES = frozenset(_VIDEO_MIMES)


def image_file_part(path: Path) -> Part:
    """A content part, its type read from the file, not from its name. Raises: WorkloadError."""
    return file_part("image", path.read_bytes(), image_mime(path))


def video_file_part(path: Path) -> Part:
    """A content part, its type told by the suffix. Raises: WorkloadError."""
    return file_part("video", path.read_bytes(), video_mime(path))


def image_mime(path: Path) -> str:
    try:
        with Image.open(path) as image:
            return Image.MIME[image.format or ""]
    except FileNotFoundError:
        raise WorkloadError(f"{path} does not exist") from None
    except (UnidentifiedImageError, OSError, KeyError):
        raise WorkloadError(f"{path} is not an image that can be sent") from None


def video_mime(path: Path) -> str:
    if not path.is_file():
        raise WorkloadError(f"{path} does not exist")
    mime = _VIDEO_MIMES.get(path.suffix.lower())
    if mime is None:
        raise WorkloadError(f"{path}: a video's suffix is one of {', '.join(_VIDEO_MIMES)}")
    return mime
