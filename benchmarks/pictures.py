"""Synthetic pictures, the same for the same seed: photographs and screenshots of any size."""

import base64
import random
from io import BytesIO
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

ImageFormat = Literal["JPEG", "PNG"]

_MIME = {"JPEG": "image/jpeg", "PNG": "image/png"}
_JPEG_QUALITY = 90
_OCTAVES = (4, 16, 64)  # cells along the shorter side; each is half as strong as the one before
_GRAIN = 2.0  # standard deviation of the finest detail, in grey levels
_WORDS = "open file edit view window help search result total price date name size status ready"
_LINE_HEIGHT = 22


def photo(seed: int, width: int, height: int) -> Image.Image:
    """Smooth colours in several scales and a little grain: it compresses like a photograph."""
    generator = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 127.5, dtype=np.float32)
    for index, num_cells in enumerate(_OCTAVES):
        cells = generator.random((num_cells, num_cells * width // height, 3), dtype=np.float32)
        coarse = Image.fromarray((cells * 255).astype(np.uint8))
        fine = coarse.resize((width, height), Image.Resampling.BICUBIC)
        pixels += (np.asarray(fine, dtype=np.float32) - 127.5) / 2**index
    pixels += generator.standard_normal((height, width, 1), dtype=np.float32) * _GRAIN
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def screenshot(seed: int, width: int, height: int) -> Image.Image:
    """Windows of one colour with lines of text in them, on a flat background."""
    generator = random.Random(seed)
    image = Image.new("RGB", (width, height), _color(generator, 40, 120))
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(_LINE_HEIGHT * 0.6)
    for _ in range(4):
        left, top = generator.randrange(width // 2), generator.randrange(height // 2)
        right, bottom = left + width // 2, top + height // 2
        draw.rectangle((left, top, right, bottom), _color(generator, 215, 255), "black")
        for y in range(top + 4, bottom - _LINE_HEIGHT, _LINE_HEIGHT):
            words = " ".join(generator.choices(_WORDS.split(), k=width // 160))
            draw.text((left + 8, y), f"{generator.random():.6f} {words}", "black", font)
    return image


def encode(image: Image.Image, image_format: ImageFormat, compress_level: int = 6) -> bytes:
    """JPEG of quality 90, or PNG, by default of the level that Pillow uses."""
    file = BytesIO()
    image.save(file, image_format, quality=_JPEG_QUALITY, compress_level=compress_level)
    return file.getvalue()


def data_url(data: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def image_part(data: bytes, image_format: ImageFormat) -> dict[str, object]:
    """A content part of a chat message."""
    return {"type": "image_url", "image_url": {"url": data_url(data, _MIME[image_format])}}


def _color(generator: random.Random, low: int, high: int) -> tuple[int, int, int]:
    return (
        generator.randint(low, high),
        generator.randint(low, high),
        generator.randint(low, high),
    )
