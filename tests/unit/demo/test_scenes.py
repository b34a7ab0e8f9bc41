"""Random pictures and clips keep their promises."""

import random
from itertools import combinations

import pytest

from demo.preprocessing import video_plan
from demo.scenes import (
    moving_clip,
    one_sided_picture,
    random_names,
    random_size,
    scene_clip,
    shapes_picture,
    side_of,
    text_picture,
)
from demo.world import Clip, Picture


@pytest.fixture(params=range(12))
def rng(request: pytest.FixtureRequest) -> random.Random:
    return random.Random(request.param)


def is_inside(picture: Picture) -> bool:
    boxes = [shape.box for shape in picture.shapes]
    return all(
        left >= 0 and top >= 0 and right <= picture.width and bottom <= picture.height
        for left, top, right, bottom in boxes
    )


def test_sides_are_64_to_448_pixels(rng: random.Random) -> None:
    sizes = [random_size(rng, aligned=False) for _ in range(50)]
    assert all(64 <= side <= 448 for size in sizes for side in size)
    assert len({round(width / height, 1) for width, height in sizes}) > 5


@pytest.mark.parametrize("aligned", [True, False])
def test_shapes_are_inside_and_apart(rng: random.Random, aligned: bool) -> None:
    names = random_names(rng, 8)
    picture = shapes_picture(rng, names, aligned)
    assert [(shape.color, shape.kind) for shape in picture.shapes] == names
    assert is_inside(picture)
    for one, other in combinations(picture.shapes, 2):
        distance = max(abs(one.x - other.x), abs(one.y - other.y))
        assert distance > one.radius + other.radius


@pytest.mark.parametrize("content", ["7", "4096", "HELLO"])
@pytest.mark.parametrize("aligned", [True, False])
def test_text_is_inside(rng: random.Random, content: str, aligned: bool) -> None:
    picture = text_picture(rng, content, aligned)
    assert picture.text is not None
    assert picture.text.content == content
    assert all(0 < center < picture.width for center in picture.text.centers())


@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
def test_one_sided(rng: random.Random, side: str) -> None:
    picture = one_sided_picture(rng, side, aligned=False)
    assert side_of(picture, picture.shapes[0]) == side


def sampled(clip: Clip) -> tuple[list[Picture], tuple[float, ...]]:
    first = clip.frames[0]
    plan = video_plan(len(clip.frames), clip.fps, first.height, first.width)
    return [clip.frames[index] for index in plan.indices], plan.timestamps


def test_a_clips_timestamps_are_those_of_the_patch_that_first_shows_a_shape(
    rng: random.Random,
) -> None:
    names = random_names(rng, 3)
    clip, seconds = scene_clip(rng, names)
    pictures, timestamps = sampled(clip)
    assert 4 <= len(pictures) <= 16
    shown = [(picture.shapes[0].color, picture.shapes[0].kind) for picture in pictures]
    assert list(dict.fromkeys(shown)) == names
    assert seconds == [timestamps[shown.index(name) // 2] for name in names]
    assert all(shown.index(name) % 2 == 0 for name in names)  # both frames of a patch agree


@pytest.mark.parametrize("direction", ["left", "right", "up", "down"])
def test_a_moving_shape_moves_that_way(rng: random.Random, direction: str) -> None:
    pictures, _ = sampled(moving_clip(rng, direction))
    axis = "x" if direction in ("left", "right") else "y"
    places = [getattr(picture.shapes[0], axis) for picture in pictures]
    assert places == sorted(places, reverse=direction in ("left", "up"))
    assert places[0] != places[-1]
