"""Charts of made-up numbers."""

import random

from PIL import Image, ImageDraw, ImageFont

from benchmarks.workload.words import WORDS

_COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")
_NUM_TICKS = 5


def draw_chart(generator: random.Random, width: int, height: int) -> Image.Image:
    """Bars or lines with axes, grid, labels and a title; RGB."""
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(max(8, height // 36))
    left, top, right, bottom = width // 8, height // 8, width - width // 16, height - height // 8
    title = " ".join(generator.choices(WORDS, k=5)).capitalize()
    draw.text((width // 2, top // 2), title, "black", font, anchor="mm")
    highest = generator.randint(2, 200) * _NUM_TICKS
    for tick in range(_NUM_TICKS + 1):
        y = bottom - (bottom - top) * tick // _NUM_TICKS
        draw.line((left, y, right, y), "black" if tick == 0 else "#dddddd")
        draw.text((left - 4, y), str(highest * tick // _NUM_TICKS), "black", font, anchor="rm")
    columns = generator.sample(WORDS, k=generator.randint(4, 10))
    step = (right - left) / len(columns)
    for index, word in enumerate(columns):
        draw.text((left + (index + 0.5) * step, bottom + 4), word, "black", font, anchor="mt")
    plot = _draw_bars if generator.random() < 0.5 else _draw_lines
    plot(draw, generator, (left, top, right, bottom), len(columns))
    return image


Box = tuple[int, int, int, int]  # left, top, right, bottom


def _draw_bars(draw: ImageDraw.ImageDraw, generator: random.Random, box: Box, num: int) -> None:
    left, top, right, bottom = box
    step = (right - left) / num
    color = generator.choice(_COLORS)
    for index in range(num):
        start = left + (index + 0.15) * step
        y = generator.uniform(top, bottom - 1)
        draw.rectangle((start, y, start + 0.7 * step, bottom - 1), color)


def _draw_lines(draw: ImageDraw.ImageDraw, generator: random.Random, box: Box, num: int) -> None:
    left, top, right, bottom = box
    step = (right - left) / num
    for color in generator.sample(_COLORS, k=generator.randint(1, 3)):
        points = [
            (left + (index + 0.5) * step, generator.uniform(top, bottom)) for index in range(num)
        ]
        draw.line(points, color, width=3)
