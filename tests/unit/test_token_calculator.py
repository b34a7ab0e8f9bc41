"""The calculator of docs/images-and-video.md counts as the server does."""

import json
import random
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from multimodal.errors import MediaError
from multimodal.options import MediaLimits, MediaOptions
from multimodal.plan import VideoHeader, check_image_header, plan_image, plan_video
from multimodal.preprocessor_config import PreprocessorConfig

SCRIPT = Path(__file__).parents[2] / "docs" / "token-calculator.js"
CONFIG, LIMITS = PreprocessorConfig(), MediaLimits()
_NODE = shutil.which("node")
_RUN = """
const calculator = require(process.argv[1]);
const cases = JSON.parse(require("fs").readFileSync(0, "utf8"));
console.log(JSON.stringify(cases.map(([kind, given]) => {
  try { return calculator[kind](given); } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return null;
  }
})));
"""
Given = Mapping[str, Any]


def make_size(rng: random.Random) -> dict[str, int]:
    """From one pixel to more than is taken, odd shapes and plain ones."""
    width = int(2 ** rng.uniform(0, 13.5))
    height = (
        int(width * 2 ** rng.uniform(-1, 1))
        if rng.random() < 0.7
        else int(2 ** rng.uniform(0, 13.5))
    )
    return {"width": width, "height": max(1, height)}


def maybe(rng: random.Random, **values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if rng.random() < 0.3}


def make_image(rng: random.Random) -> dict[str, Any]:
    low, high = sorted(int(2 ** rng.uniform(0, 24)) for _ in range(2))
    return make_size(rng) | maybe(rng, min_pixels=low, max_pixels=high)


def make_video(rng: random.Random) -> dict[str, Any]:
    fps = rng.choice([24.0, 25.0, 30.0, 29.97, 23.976, 12.5, 60.0, 1.0])
    frames = int(2 ** rng.uniform(0, 17))
    low, high = sorted(int(2 ** rng.uniform(0, 24)) for _ in range(2))
    options = maybe(
        rng, min_pixels=low, max_pixels=high, total_pixels=rng.randint(1, LIMITS.max_total_pixels)
    )
    rate = rng.choice(
        [{}, {"fps": rng.choice([0.1, 0.5, 1, 4, 30])}, {"num_frames": rng.randint(1, 768)}]
    )
    if "num_frames" not in rate:
        options |= maybe(rng, max_frames=rng.randint(1, 768))
    return make_size(rng) | {"source_frames": frames, "source_fps": fps} | options | rate


def options_of(given: Given) -> MediaOptions:
    names = MediaOptions.__dataclass_fields__
    return MediaOptions(**{name: value for name, value in given.items() if name in names})


def count_image(given: Given) -> dict[str, int]:
    check_image_header(given["width"], given["height"], LIMITS)
    height, width = plan_image(given["height"], given["width"], options_of(given), CONFIG, LIMITS)
    tokens = height * width // CONFIG.factor**2
    return {"width": width, "height": height, "tokens": tokens, "prompt_tokens": tokens + 2}


def count_video(given: Given) -> dict[str, int]:
    header = VideoHeader(
        given["source_frames"], given["source_fps"], given["width"], given["height"]
    )
    plan = plan_video(header, options_of(given), CONFIG, LIMITS)
    tokens = len(plan.timestamps) * (plan.height * plan.width // CONFIG.factor**2)
    stamps = sum(len(f"{seconds:.1f}") + 3 for seconds in plan.timestamps)
    return {
        "width": plan.width,
        "height": plan.height,
        "frames": len(plan.indices),
        "tokens": tokens,
        "prompt_tokens": tokens + stamps + 2 * (len(plan.timestamps) + 1),
    }


@pytest.mark.skipif(_NODE is None, reason="there is no node")
@pytest.mark.parametrize(
    ("kind", "make", "count"),
    [("imageTokens", make_image, count_image), ("videoTokens", make_video, count_video)],
)
def test_the_calculator_counts_as_the_server_does(kind: str, make: Any, count: Any) -> None:
    rng = random.Random(20261122)
    cases = [make(rng) for _ in range(3000)]
    wanted = []
    for given in cases:
        try:
            wanted.append(count(given))
        except MediaError:
            wanted.append(None)
    assert 0 < wanted.count(None) < 1500
    assert _NODE is not None
    ran = subprocess.run(
        [_NODE, "-e", _RUN, str(SCRIPT)],
        input=json.dumps([[kind, given] for given in cases]),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = json.loads(ran.stdout)
    wrong = [case for case in zip(cases, wanted, found, strict=True) if case[1] != case[2]]
    assert wrong == [], f"{len(wrong)} differ, such as {wrong[0]}"
