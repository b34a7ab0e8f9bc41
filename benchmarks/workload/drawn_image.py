"""Images that no request has had before: photographs, pages, charts and screenshots.

A drawing costs less than its encoding, so that the client of a load test is not what limits it:
photographs are mixed from scenes that are drawn once per process, words are rendered once.
"""

import random
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from benchmarks.pictures import photo
from benchmarks.workload.chart import draw_chart
from benchmarks.workload.text_area import Pixels, write_text

ImageKind = Literal["photo", "page", "chart", "screenshot"]

_SCENES = 2  # per size of images
_MARGIN = 4  # a scene is larger than the photographs from it by this part
_GAIN = 1.3  # gives back the contrast and the grain that mixing two scenes takes
_STAMP_SIDE = 16  # pixels
_FONT_SIZE = 20
_BAR_HEIGHT = 28  # of a window's title
_NUM_WINDOWS = 4


def draw_image(
    kind: ImageKind, generator: random.Random, width: int, height: int, scenes_seed: int
) -> Image.Image:
    """RGB. Every image differs from every other in a small square of noise at least."""
    if kind == "photo":
        pixels = _photo(generator, width, height, scenes_seed)
    else:
        pixels = _DRAWINGS[kind](generator, width, height)
    stamp = generator.randbytes(_STAMP_SIDE * _STAMP_SIDE * 3)
    shape = (_STAMP_SIDE, _STAMP_SIDE, 3)
    pixels[-_STAMP_SIDE:, -_STAMP_SIDE:] = np.frombuffer(stamp, np.uint8).reshape(shape)
    return Image.fromarray(pixels)


def _photo(generator: random.Random, width: int, height: int, seed: int) -> Pixels:
    """Two scenes through each other, each cut at a random place and perhaps mirrored."""
    weight = generator.uniform(0.25, 0.75)
    crops = [
        _crop(generator, _scene(seed, i, width, height), width, height) for i in range(_SCENES)
    ]
    brightness = 127.5 * (1 - _GAIN) + generator.uniform(-20, 20)
    mixed = cv2.addWeighted(crops[0], _GAIN * weight, crops[1], _GAIN * (1 - weight), brightness)
    return mixed.astype(np.uint8, copy=False)


def _crop(generator: random.Random, scene: Pixels, width: int, height: int) -> Pixels:
    top = generator.randint(0, scene.shape[0] - height)
    left = generator.randint(0, scene.shape[1] - width)
    row_step, column_step = generator.choice((1, -1)), generator.choice((1, -1))
    crop = scene[top : top + height, left : left + width]
    return np.ascontiguousarray(crop[::row_step, ::column_step])


@lru_cache(maxsize=32)
def _scene(seed: int, index: int, width: int, height: int) -> Pixels:
    scene_seed = random.Random(f"{seed}/scene/{index}").getrandbits(32)
    return np.asarray(photo(scene_seed, width + width // _MARGIN, height + height // _MARGIN))


def _page(generator: random.Random, width: int, height: int) -> Pixels:
    """Paragraphs in black on white, with margins."""
    page = np.full((height, width), 255, dtype=np.uint8)
    margin, top = width // 10, height // 12
    write_text(page[top // 2 : top, margin:-margin], generator, 2 * _FONT_SIZE)
    while top < height - height // 12:
        bottom = min(top + generator.randint(4, 12) * _FONT_SIZE, height - height // 12)
        write_text(page[top:bottom, margin:-margin], generator, _FONT_SIZE)
        top = bottom + 2 * _FONT_SIZE
    return _rgb(page)


def _screenshot(generator: random.Random, width: int, height: int) -> Pixels:
    """Windows with a title bar and text, one over the other, on a background of one colour."""
    screen = np.empty((height, width, 3), dtype=np.uint8)
    screen[:] = _color(generator)
    for _ in range(_NUM_WINDOWS):
        top, left = generator.randrange(height // 2), generator.randrange(width // 2)
        window = screen[top : top + height // 2, left : left + width // 2]
        window[:_BAR_HEIGHT] = _color(generator)
        text = np.full(window[_BAR_HEIGHT:].shape[:2], 255, dtype=np.uint8)
        text[:, [0, -1]] = text[-1:] = 100
        write_text(text[8:-8, 8:-8], generator, _FONT_SIZE)
        window[_BAR_HEIGHT:] = _rgb(text)
    return screen


def _chart(generator: random.Random, width: int, height: int) -> Pixels:
    return np.array(draw_chart(generator, width, height))


def _rgb(gray: Pixels) -> Pixels:
    return cv2.cvtColor(gray, cv2.COLOR_GRAY2RGB).astype(np.uint8, copy=False)


def _color(generator: random.Random) -> tuple[int, int, int]:
    return generator.randint(40, 160), generator.randint(40, 160), generator.randint(40, 160)


_DRAWINGS: dict[ImageKind, Callable[[random.Random, int, int], Pixels]] = {
    "page": _page,
    "chart": _chart,
    "screenshot": _screenshot,
}
