"""What the demo model sees: coloured shapes, and text, on plain backgrounds."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross")
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (215, 35, 40),
    "orange": (245, 140, 25),
    "yellow": (240, 220, 50),
    "green": (35, 160, 65),
    "blue": (40, 85, 220),
    "purple": (140, 50, 175),
}
Rgb = tuple[int, int, int]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Shape:
    """One shape; `x`, `y` (its centre) and `radius` (half its side) in pixels."""

    kind: str
    color: str
    x: float
    y: float
    radius: float
    rgb: Rgb

    @property
    def name(self) -> str:
        return f"{self.color} {self.kind}"

    @property
    def box(self) -> Box:
        """Left, top, right, bottom in pixels."""
        xs, ys = zip(*self.outline(), strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    def outline(self) -> list[tuple[float, float]]:
        return [
            (self.x + self.radius * dx, self.y + self.radius * dy)
            for dx, dy in _OUTLINES[self.kind]
        ]


@dataclass(frozen=True, slots=True)
class Text:
    """One line of text: its left edge, vertical centre and font size in pixels."""

    content: str
    x: float
    y: float
    size: int
    rgb: Rgb
    spacing: float | None = None  # pixels between the centres of characters; None: the font's own

    def centers(self) -> list[float]:
        """The horizontal centre of each character, in pixels."""
        if self.spacing is not None:
            return [self.x + self.spacing * (i + 0.5) for i in range(len(self.content))]
        font = _font(self.size)
        return [
            self.x + font.getlength(self.content[:i]) + font.getlength(character) / 2
            for i, character in enumerate(self.content)
        ]


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawing of `width` x `height` pixels."""

    width: int
    height: int
    background: Rgb
    shapes: tuple[Shape, ...] = ()
    text: Text | None = None

    def draw(self) -> np.ndarray:
        """(height, width, 3) uint8 RGB."""
        image = Image.new("RGB", (self.width, self.height), self.background)
        canvas = ImageDraw.Draw(image)
        for shape in self.shapes:
            if shape.kind == "circle":
                canvas.ellipse(shape.box, fill=shape.rgb)
            else:
                canvas.polygon(shape.outline(), fill=shape.rgb)
        if self.text is not None:
            _write(canvas, self.text)
        return np.asarray(image)


@dataclass(frozen=True, slots=True)
class Clip:
    """A video: one picture per source frame, equal ones shared."""

    fps: float
    frames: tuple[Picture, ...]


@lru_cache(maxsize=512)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)  # a scalable font inside Pillow, the same everywhere
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("this Pillow was built without FreeType")
    return font


def text_width(content: str, size: int) -> float:
    """Pixels that the text takes in the font's own spacing."""
    return _font(size).getlength(content)


def _write(canvas: ImageDraw.ImageDraw, text: Text) -> None:
    font = _font(text.size)
    if text.spacing is None:
        canvas.text((text.x, text.y), text.content, font=font, fill=text.rgb, anchor="lm")
        return
    for character, x in zip(text.content, text.centers(), strict=True):
        canvas.text((x, text.y), character, font=font, fill=text.rgb, anchor="mm")


def _star() -> list[tuple[float, float]]:
    points = []
    for i in range(10):
        angle, length = math.pi * i / 5, 1.0 if i % 2 == 0 else 0.42
        points.append((length * math.sin(angle), -length * math.cos(angle)))
    return points


_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "circle": [(-1, -1), (1, 1)],
    "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    "triangle": [(0, -1), (1, 0.85), (-1, 0.85)],
    "star": _star(),
    "diamond": [(0, -1), (0.75, 0), (0, 1), (-0.75, 0)],
    "cross": [
        *[(-0.35, -1), (0.35, -1), (0.35, -0.35), (1, -0.35), (1, 0.35), (0.35, 0.35)],
        *[(0.35, 1), (-0.35, 1), (-0.35, 0.35), (-1, 0.35), (-1, -0.35), (-0.35, -0.35)],
    ],
}
