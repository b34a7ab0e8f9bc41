"""Plain JPEGs straight into RGB: the pixels that Pillow gives, without its four bytes a pixel."""

import numpy as np
import simplejpeg

_PIXEL = np.dtype("V3")
_FLIPS_ROWS, _FLIPS_COLUMNS, _SWAPS_SIDES = (3, 4, 6, 7), (2, 3, 7, 8), (5, 6, 7, 8)


def decode_jpeg(data: bytes, width: int, height: int) -> np.ndarray | None:
    """Decode an undamaged three-component JPEG of a known size.

    Returns: (height, width, 3) uint8, C-contiguous; None for whatever is unusual: another size, no
        YCbCr, anything of which the decoder warns. Pillow knows what such a file is worth.
    """
    try:
        header = simplejpeg.decode_jpeg_header(data)
        if header[:3] != (height, width, "YCbCr"):  # nothing is allocated before
            return None
        rgb: np.ndarray = simplejpeg.decode_jpeg(
            data, "RGB", fastdct=False, fastupsample=False, strict=True
        )
    except Exception:
        return None
    return rgb


def upright(rgb: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation (1 to 8) to C-contiguous (H, W, 3) uint8; the result is so too."""
    pixels = rgb.view(_PIXEL)[..., 0]  # whole pixels move, several times as fast as their bytes
    if orientation in _FLIPS_ROWS:
        pixels = pixels[::-1]
    if orientation in _FLIPS_COLUMNS:
        pixels = pixels[:, ::-1]
    if orientation in _SWAPS_SIDES:
        pixels = pixels.T
    return np.ascontiguousarray(pixels)[..., None].view(np.uint8)
