"""Drawings lie where their descriptions say."""

import numpy as np
import pytest

from demo.world import SHAPES, Picture, Shape, Text

WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def ink_box(picture: Picture) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero((picture.draw() != 255).any(axis=2))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


@pytest.mark.parametrize("kind", SHAPES)
def test_a_shape_fills_its_box(kind: str) -> None:
    shape = Shape(kind, "red", 60.0, 45.0, 30.0, BLACK)
    drawn = ink_box(Picture(128, 96, WHITE, shapes=(shape,)))
    assert np.abs(np.subtract(drawn, shape.box)).max() <= 1.5


@pytest.mark.parametrize("spacing", [None, 32.0])
def test_characters_are_where_their_centers_say(spacing: float | None) -> None:
    text = Text("A0H8", 20.0, 40.0, 30, BLACK, spacing)
    image = Picture(180, 80, WHITE, text=text).draw()
    for index, center in enumerate(text.centers()):
        alone = Text(text.content[index], center, 40.0, 30, BLACK, spacing=0.0)
        left, _, right, _ = ink_box(Picture(180, 80, WHITE, text=alone))
        assert (image[:, left:right] < 128).any()
        assert abs((left + right) / 2 - center) < 2.5
