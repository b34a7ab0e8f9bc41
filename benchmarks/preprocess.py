"""CPU milliseconds from the bytes of a request with one image to the engine's input.

    python -m benchmarks.preprocess --stock-python STOCK/bin/python

Each side runs in a process of its own. In turn they prepare the same bodies, with images that are
new to them, and then the same ones again. Counted is the CPU time of all threads. The floor is what
decoding with Pillow and resizing once take, without request, hashing, or cutting into patches.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from benchmarks.arguments import shared_parser
from benchmarks.client import chat_body, user
from benchmarks.pictures import ImageFormat, encode, image_part, photo, screenshot
from benchmarks.report import Aim, Report, Sample, median_row
from benchmarks.shapes import checkpoint
from benchmarks.side_process import SideProcess, side_process
from multimodal.options import MediaLimits, MediaOptions
from multimodal.plan import plan_image
from multimodal.preprocessor_config import PreprocessorConfig
from multimodal.resize import resize_rgb

_NUM_PICTURES = 9  # for each case
_NUM_REPETITIONS = 3
_SIZES = {"640x480": (640, 480), "1080p": (1920, 1080), "4K": (3840, 2160)}
_AIMED_SIZE = "1080p"
_MAX_TO_FLOOR, _MIN_NEW_RATIO = 1.2, 1.7
_MIN_REPEATED_RATIO = {"JPEG": 30, "PNG": 100}


@dataclass(frozen=True, slots=True)
class Case:
    size: str
    kind: Literal["photo", "screenshot"]
    image_format: ImageFormat

    @property
    def name(self) -> str:
        return f"{self.size} {self.image_format} {self.kind}"

    def encoded(self, seed: int) -> bytes:
        draw = photo if self.kind == "photo" else screenshot
        return encode(draw(seed, *_SIZES[self.size]), self.image_format)


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds for one case; `floor` belongs to `new`."""

    new: Sequence[Sample]
    repeated: Sequence[Sample]
    floor: Sequence[float]


def main() -> None:
    arguments = shared_parser(__doc__).parse_args()
    folder = str(checkpoint(arguments.checkpoints, "2b").absolute())
    torch.set_num_threads(1)
    with (
        side_process(Path(sys.executable), "benchmarks.our_preparation", folder) as ours,
        side_process(arguments.stock_python, "benchmarks.stock_preparation", folder) as stock,
    ):
        times = {case: measure(case, ours, stock) for case in cases()}
    report(times).print()


def cases() -> list[Case]:
    kinds: list[tuple[Literal["photo", "screenshot"], ImageFormat]]
    kinds = [("photo", "JPEG"), ("photo", "PNG"), ("screenshot", "PNG")]
    return [Case(size, *kind) for size in _SIZES for kind in kinds]


def measure(case: Case, ours: SideProcess, stock: SideProcess) -> Times:
    """One side prepares all pictures of the case, then the other; then both all of them again."""
    pictures = [case.encoded(seed) for seed in range(_NUM_PICTURES)]
    floor = [floor_ms(picture) for picture in pictures]
    with tempfile.TemporaryDirectory() as folder:
        bodies = [Path(folder) / f"{index}.json" for index in range(_NUM_PICTURES)]
        for path, picture in zip(bodies, pictures, strict=True):
            part = image_part(picture, case.image_format)
            path.write_bytes(chat_body([user(part, "What is this?")]))
        new = _in_turn(ours, stock, bodies)
        repeated = _in_turn(ours, stock, bodies * _NUM_REPETITIONS)
    return Times(new, repeated, floor)


def _in_turn(ours: SideProcess, stock: SideProcess, bodies: Sequence[Path]) -> list[Sample]:
    paths = list(map(str, bodies))
    return list(map(Sample, ours.ask(paths), stock.ask(paths)))


def floor_ms(encoded: bytes) -> float:
    start_s = time.process_time()
    rgb = np.array(Image.open(BytesIO(encoded)).convert("RGB"))
    height, width = plan_image(
        rgb.shape[0], rgb.shape[1], MediaOptions(), PreprocessorConfig(), MediaLimits()
    )
    resize_rgb(rgb, height, width)
    return (time.process_time() - start_s) * 1000


def report(times: dict[Case, Times]) -> Report:
    rows, aims = [], []
    for case, measured in times.items():
        new = median_row(f"{case.name}: new", measured.new, "ms")
        repeated = median_row(f"{case.name}: repeated", measured.repeated, "ms")
        rows += [new, repeated]
        to_floor = new.ours / statistics.median(measured.floor)
        aims.append(
            Aim(f"{case.name}: new, times the floor", to_floor, _MAX_TO_FLOOR, at_least=False)
        )
        if case.size == _AIMED_SIZE:
            least = _MIN_REPEATED_RATIO[case.image_format]
            aims += [
                Aim(f"{case.name}: new, times less than stock", new.ratio, _MIN_NEW_RATIO),
                Aim(f"{case.name}: repeated, times less than stock", repeated.ratio, least),
            ]
    return Report("preprocess", rows, aims)


if __name__ == "__main__":
    main()
