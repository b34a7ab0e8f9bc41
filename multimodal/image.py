"""Encoded images: what the header says, and the RGB pixels.

Pillow decodes; nothing of what it says reaches a client. Sizes are checked on the header, before
any pixel is decoded.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from multimodal.errors import MediaCorrupt, MediaError, MediaTooLarge, UnsupportedMedia
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

    Raises: UnsupportedMedia, MediaCorrupt; MediaTooLarge for sizes at which Pillow itself refuses.
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
        image.load()
        if orientation in _TRANSPOSE:
            image = image.transpose(_TRANSPOSE[orientation])
        rgb = rgb_pixels(image)
    check_image_header(rgb.shape[1], rgb.shape[0], limits)
    return rgb


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


def _open(data: bytes) -> Image.Image:
    return Image.open(BytesIO(data), formats=FORMATS)


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
    while position + _PNG_CHUNK_OVERHEAD <= len(data):
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
