"""Small valid files: an image of each format, and an entry of the vision cache."""

from io import BytesIO

import numpy as np
import torch
from blake3 import blake3
from PIL import Image

from multimodal.vision_entry import write_entry

ENTRY_NAMESPACE, ENTRY_KEY = "ab" * 8, "cd" * 16
_HEADER_BYTES = 512


def _encode(image_format: str, mode: str = "RGB", **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (18, 25, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, image_format, **options)
    return buffer.getvalue()


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


IMAGES = {
    "PNG": _encode("PNG"),
    "PNG palette": _encode("PNG", "P"),
    "PNG alpha": _encode("PNG", "RGBA", exif=_exif(6)),
    "JPEG": _encode("JPEG"),
    "JPEG progressive": _encode("JPEG", progressive=True),
    "JPEG turned": _encode("JPEG", exif=_exif(5)),
    "JPEG CMYK": _encode("JPEG", "CMYK"),
    "WEBP": _encode("WEBP"),
    "GIF": _encode("GIF"),
    "BMP": _encode("BMP"),
    "TIFF": _encode("TIFF"),
    "TIFF deflate": _encode("TIFF", compression="tiff_adobe_deflate"),
    "AVIF": _encode("AVIF"),
}


def make_entry(
    dtype: torch.dtype = torch.float32, *, header: bytes | None = None, payload: int = 0
) -> bytes:
    """An entry as the cache writes it, or with a header of its own over so many bytes."""
    if header is not None:
        padded = (b"q3vision" + header).ljust(_HEADER_BYTES)[:_HEADER_BYTES]
        data = padded + bytes(payload)
        return data + blake3(data).digest()
    buffer = BytesIO()
    write_entry(buffer, ENTRY_NAMESPACE, ENTRY_KEY, torch.ones(3, 4).to(dtype))
    return buffer.getvalue()
