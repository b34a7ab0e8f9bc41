"""The sizes that images of a workload have."""

import random
import re
from dataclasses import dataclass
from typing import Self

from benchmarks.workload.error import WorkloadError

_ENTRY = re.compile(r"(?P<width>\d+)x(?P<height>\d+)(:(?P<weight>\d+(\.\d+)?))?")
_MIN_SIDE, _MAX_SIDE = 64, 8192  # pixels; a smaller screenshot has no windows


@dataclass(frozen=True, slots=True)
class ImageSizes:
    """Attributes:
    sizes: (width, height) in pixels.
    weights: how often each is drawn, relative to the others.
    """

    sizes: tuple[tuple[int, int], ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        for width, height in self.sizes:
            if not (_MIN_SIDE <= width <= _MAX_SIDE and _MIN_SIDE <= height <= _MAX_SIDE):
                raise WorkloadError(
                    f"image size {width}x{height}: sides of {_MIN_SIDE} to {_MAX_SIDE} are drawn"
                )
        if sum(self.weights) <= 0:
            raise WorkloadError("image sizes: every weight is 0")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `640x480:3,1920x1080`; the weight is 1 where none is given.

        Raises: WorkloadError.
        """
        entries = [_ENTRY.fullmatch(entry.strip()) for entry in text.split(",")]
        sizes, weights = [], []
        for entry in entries:
            if entry is None:
                raise WorkloadError(f"image sizes `{text}`: not of the form 640x480:3,1920x1080:1")
            sizes.append((int(entry["width"]), int(entry["height"])))
            weights.append(float(entry["weight"] or 1))
        return cls(tuple(sizes), tuple(weights))

    def draw(self, generator: random.Random) -> tuple[int, int]:
        """Width and height."""
        return generator.choices(self.sizes, self.weights)[0]
