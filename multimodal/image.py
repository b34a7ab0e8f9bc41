"""Encoded images: what the header says, and the RGB pixels.

Pillow decodes, or for plain JPEGs a faster way to the same pixels; nothing of what it says reaches
a client. Sizes are checked on the header, before any pixel is decoded; what makes decoding long
without many pixels is bounded as well.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import islice

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from multimodal.errors import MediaCorrupt, MediaError, MediaTooLarge, UnsupportedMedia
from multimodal.jpeg import decode_jpeg, upright
from multimodal.options import MediaLimits
from multimodal.plan import check_image_header

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = (5, 6, 7, 8)
_DEEP_MODES = ("I", "F")  # 32 bits a channel: their range is not defined, so they cannot be shown
_MAX_READS = 250_000  # 0.3 s; a PNG of 32 MiB in chunks of 8 KiB takes some 12,000
_JPEG_SIGNATURE = b"\xff\xd8"
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # neither stuffing, restart nor fill
_JPEG_SCAN, _JPEG_END = 0xDA, 0xD9
_JPEG_FIRST_SEGMENT = 0xC0  # from this marker on a length follows
_MAX_JPEG_SCANS = 100  # usual are 10
_MAX_JPEG_MARKERS = 10_000
_MAX_JPEG_SEGMENTS = 1000  # before the pixels; usual are 10 to 50
_JPEG_SEGMENT_BYTES = 10  # marker and length, and what is read of a frame: depth, sides, components
_JPEG_SEQUENTIAL_FRAMES = frozenset((0xC0, 0xC1))
# tables, restart interval, applications' data, comments: each has a length
_JPEG_HEADER_SEGMENTS = frozenset((0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE))
_EXIF = b"Exif\0\0"
_MAX_EXIF = 100  # segments; usual is 1
_PNG_SIGNATURE_BYTES = 8
_PNG_CHUNK_OVERHEAD = 12  # length, type and checksum, 4 bytes each


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """`width` and `height` in pixels, after the EXIF orientation; `format` is one of FORMATS."""

    format: str
    width: int
    height: int


def probe_image(data: bytes) -> ImageHeader:
    """Read the header of an encoded image; no pixel is decoded.

    Raises: UnsupportedMedia, MediaCorrupt; MediaTooLarge for sizes at which Pillow itself refuses,
        and for what would be long to decode.
    """
    with _pillow_errors(), _open(data) as image:
        return _header(image, data)


def decode_image(data: bytes, limits: MediaLimits) -> np.ndarray:
    """Decode the first frame of an encoded image.

    The EXIF orientation is applied, transparency is composited on white, 16-bit grey scaled to 8.

    Returns: (H, W, 3) uint8, C-contiguous, owned by the caller.
    Raises: MediaTooLarge before decoding; UnsupportedMedia; MediaCorrupt.
    """
    check_image_bytes(data, limits)
    with _pillow_errors(), _open(data) as image:
        header = _header(image, data)
        check_image_header(header.width, header.height, limits)
        orientation = _orientation(image, data)
        jpeg = _plain_jpeg(image, data)
        if jpeg is not None:
            rgb = upright(jpeg, orientation)
        else:
            image.load()
            if orientation in _TRANSPOSE:
                image = image.transpose(_TRANSPOSE[orientation])
            rgb = rgb_pixels(image)
    check_image_header(rgb.shape[1], rgb.shape[0], limits)
    return rgb


def _plain_jpeg(image: Image.Image, data: bytes) -> np.ndarray | None:
    """The pixels as stored, of a JPEG of one scan that nothing is wrong with; of others None.

    Others have the decoder of Pillow alone: their scans, and so their time, would count twice.
    """
    if image.format not in ("JPEG", "MPO") or image.mode != "RGB" or not _has_one_scan(data):
        return None
    return decode_jpeg(data, *image.size)


def check_image_bytes(data: bytes, limits: MediaLimits) -> None:
    """Raises: MediaTooLarge."""
    if len(data) > limits.max_image_bytes:
        raise MediaTooLarge(
            f"an image of {len(data)} bytes exceeds max_image_bytes ({limits.max_image_bytes})",
            "image_too_large",
        )


def rgb_pixels(image: Image.Image) -> np.ndarray:
    """The pixels of a Pillow image as it is (no orientation): (H, W, 3) uint8, C-contiguous.

    Raises: UnsupportedMedia for 32-bit channels.
    """
    if image.mode in _DEEP_MODES:
        raise UnsupportedMedia("images of 32 bits a channel are not supported", "unsupported_image")
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image).astype(np.uint32) * 255 + 32767) // 65535
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    if image.has_transparency_data:
        image = _on_white(image)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


class _CountedFile(BytesIO):
    """A file for the loops of Pillow that read millions of tiny chunks, segments, tags or runs."""

    _num_reads = _num_exif = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self._num_reads += 1
        if self._num_reads > _MAX_READS:
            raise _too_complex()
        data = super().read(size)
        if data.startswith(_EXIF):  # of a JPEG: Pillow joins such segments one by one
            self._num_exif += 1
            if self._num_exif > _MAX_EXIF:
                raise _too_complex()
        return data


def _open(data: bytes) -> Image.Image:
    if data.startswith(_JPEG_SIGNATURE):
        _check_scans(data)
    return Image.open(_CountedFile(data), formats=FORMATS)


def _check_scans(data: bytes) -> None:
    """Every scan of a JPEG is a pass over all pixels. Raises: MediaTooLarge."""
    if _has_one_scan(data) or _count_scan_markers(data) <= _MAX_JPEG_SCANS:
        return
    # Some may be chance: phones append a video, which is never decoded.
    markers = list(islice(_jpeg_markers(data), _MAX_JPEG_MARKERS + 1))
    if len(markers) > _MAX_JPEG_MARKERS or markers.count(_JPEG_SCAN) > _MAX_JPEG_SCANS:
        raise MediaTooLarge(f"the image has more than {_MAX_JPEG_SCANS} scans", "too_many_scans")


def _has_one_scan(data: bytes) -> bool:
    """Whether a JPEG is one of the usual kind: its header says that nothing follows the first scan.

    That is so if the frame is not progressive and the scan has all of its components; a decoder
    then reads no other. Nothing but the header is looked at, and only if it is as it should be.
    """
    position, num_components = len(_JPEG_SIGNATURE), 0
    for _ in range(_MAX_JPEG_SEGMENTS):
        segment = data[position : position + _JPEG_SEGMENT_BYTES]
        if len(segment) < _JPEG_SEGMENT_BYTES or segment[0] != 0xFF:
            return False
        marker = segment[1]
        if marker == _JPEG_SCAN:
            return num_components == segment[4] > 0
        if marker in _JPEG_SEQUENTIAL_FRAMES:
            num_components = segment[9]
        elif marker not in _JPEG_HEADER_SEGMENTS:
            return False
        position += 2 + int.from_bytes(segment[2:4], "big")
    return False


def _count_scan_markers(data: bytes) -> int:
    """How often a scan's marker is in the file, by chance as well."""
    array = np.frombuffer(data, np.uint8)
    is_marker = array[:-1] == 0xFF
    is_marker &= array[1:] == _JPEG_SCAN
    return int(np.count_nonzero(is_marker))


def _jpeg_markers(data: bytes) -> Iterator[int]:
    """The markers of the first picture, as a decoder meets them."""
    position = len(_JPEG_SIGNATURE)
    while match := _JPEG_MARKER.search(data, position):
        position = match.end()
        marker = data[position - 1]
        if marker == _JPEG_END:
            return
        yield marker
        if marker >= _JPEG_FIRST_SEGMENT:
            position += int.from_bytes(data[position : position + 2], "big")


@contextmanager
def _pillow_errors() -> Iterator[None]:
    """Whatever a plugin raises on hostile bytes becomes one of our errors, with a text of ours."""
    try:
        yield
    except MediaError:
        raise
    except UnidentifiedImageError:
        raise UnsupportedMedia(
            f"not an image of a supported format ({', '.join(FORMATS)})", "unsupported_image"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise MediaTooLarge("the image has too many pixels", "too_many_source_pixels") from None
    except Exception:
        raise _corrupt() from None


def _too_complex() -> MediaTooLarge:
    return MediaTooLarge("the image has too many parts", "image_too_complex")


def _corrupt() -> MediaCorrupt:
    return MediaCorrupt("the image cannot be decoded", "corrupt_image")


def _header(image: Image.Image, data: bytes) -> ImageHeader:
    width, height = image.size
    if min(width, height) < 1:
        raise _corrupt()
    if _orientation(image, data) in _SWAPS_SIDES:
        width, height = height, width
    name = "JPEG" if image.format == "MPO" else str(image.format)
    return ImageHeader(name, width, height)


def _orientation(image: Image.Image, data: bytes) -> int:
    """The EXIF orientation (1 to 8) that is still to be applied after decoding, from the header."""
    if image.format == "TIFF":
        return 1  # Pillow's TIFF plugin turns the pixels, and reports the turned size, itself
    if image.format == "PNG" and "exif" not in image.info:
        exif = _png_exif(data)
        if exif is not None:
            image.info["exif"] = exif
    try:
        # The base class's method: that of PNG decodes the pixels to find a late chunk.
        return int(Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1  # damaged metadata does not make the pixels unreadable


def _png_exif(data: bytes) -> bytes | None:
    """The eXIf chunk of a PNG, which may stand behind the pixels."""
    position = _PNG_SIGNATURE_BYTES
    for _ in range(_MAX_READS):  # Pillow reads each chunk more than once, and fails for more
        if position + _PNG_CHUNK_OVERHEAD > len(data):
            break
        length = int.from_bytes(data[position : position + 4], "big")
        if data[position + 4 : position + 8] == b"eXIf":
            return data[position + 8 : position + 8 + length]
        position += length + _PNG_CHUNK_OVERHEAD
    return None


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # premultiplied grey converts only by way of its own straight form
        image = image.convert("LA")
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    white = Image.new("RGB", rgba.size, (255, 255, 255))
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white
