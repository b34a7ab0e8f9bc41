"""Lines of text on a page or in a window, from words that are rendered once per process."""

import random
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.workload.words import WORDS

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

_NUM_NUMERALS = 60  # among the words, as prices and dates are
_LINE_SPACING = 1.5  # of the letters' height


def write_text(area: Pixels, generator: random.Random, font_size: int) -> None:
    """Fill an area, (height, width) and white, with lines of random words in black.

    What does not fit as a whole, be it word or line, is left out.
    """
    words = _word_images(font_size)
    for top in range(0, area.shape[0] - words[0].shape[0] + 1, int(font_size * _LINE_SPACING)):
        left = 0
        while True:
            word = generator.choice(words)
            height, width = word.shape
            if left + width > area.shape[1]:
                break
            area[top : top + height, left : left + width] = word
            left += width


@lru_cache(maxsize=8)
def _word_images(font_size: int) -> Sequence[Pixels]:
    """(height, width) each, of one height, with the space after the word."""
    font = ImageFont.load_default(font_size)
    generator = random.Random(0)
    numerals = [f"{generator.uniform(1, 10_000):.2f}" for _ in range(_NUM_NUMERALS)]
    images = []
    for word in (*WORDS, *numerals):
        width = round(font.getlength(f"{word} "))
        image = Image.new("L", (width, round(font_size * 1.25)), "white")
        ImageDraw.Draw(image).text((0, 0), word, "black", font)
        images.append(np.asarray(image))
    return images
