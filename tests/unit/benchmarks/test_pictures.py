"""Pictures of a seed are the same in every run, and those of two seeds differ."""

from collections.abc import Callable

import pytest
from PIL import Image

from benchmarks.pictures import encode, image_part, photo, screenshot

Draw = Callable[[int, int, int], Image.Image]

draws = pytest.mark.parametrize("draw", [photo, screenshot])


@draws
def test_a_picture_depends_on_its_seed_alone(draw: Draw) -> None:
    assert encode(draw(3, 320, 200), "PNG") == encode(draw(3, 320, 200), "PNG")
    assert encode(draw(3, 320, 200), "PNG") != encode(draw(4, 320, 200), "PNG")


@draws
def test_a_picture_has_the_size_asked_for(draw: Draw) -> None:
    assert draw(0, 320, 200).size == (320, 200)


def test_a_photograph_compresses_like_one_and_a_screenshot_better() -> None:
    num_bytes = {
        draw: len(encode(draw(0, 640, 480), "PNG")) / (640 * 480) for draw in (photo, screenshot)
    }
    assert 1 < num_bytes[photo] < 2.5
    assert num_bytes[screenshot] < 0.5


def test_a_part_holds_a_data_url_of_its_format() -> None:
    part = image_part(encode(photo(0, 64, 64), "JPEG"), "JPEG")
    assert part["type"] == "image_url"
    assert str(part["image_url"]).startswith("{'url': 'data:image/jpeg;base64,/9j/")
