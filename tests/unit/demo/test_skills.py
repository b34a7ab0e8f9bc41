"""Questions have the answers that the drawings give."""

import json
import random

import pytest

from demo.skills import (
    OTHERS,
    SINGLE_PICTURE,
    Maker,
    Question,
    answer_is_right,
    box_json,
    iou,
    several_example,
    total_example,
)
from demo.world import SHAPES, Picture, Shape

MAKERS = [*SINGLE_PICTURE, *OTHERS]


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)
def test_true_answers_are_right_and_others_wrong(maker: Maker) -> None:
    for seed in range(20):
        example = maker(random.Random(seed), False)
        assert example == maker(random.Random(seed), False)
        assert 0 <= len(example.media) <= 4
        for question in example.questions:
            assert answer_is_right(question, question.answer)
            assert not answer_is_right(question, f"{question.answer} 1")
            assert question.thought


def test_counts_are_those_of_the_picture() -> None:
    counted = 0
    for seed in range(60):
        example = several_example(random.Random(seed), False)
        (picture,) = example.media
        assert isinstance(picture, Picture)
        for question in example.questions:
            for kind in SHAPES:
                plural = "crosses" if kind == "cross" else f"{kind}s"
                if question.skill == "count" and plural in question.text:
                    counted += 1
                    shapes = [shape for shape in picture.shapes if shape.kind == kind]
                    assert question.answer == str(len(shapes))
    assert counted > 20


def test_a_total_is_that_of_both_pictures() -> None:
    example = total_example(random.Random(4), False)
    (question,) = example.questions
    kind = next(kind for kind in SHAPES if kind in question.text)
    pictures = [media for media in example.media if isinstance(media, Picture)]
    kinds = [shape.kind for picture in pictures for shape in picture.shapes]
    assert question.answer == str(kinds.count(kind))


def test_boxes_are_relative_and_judged_by_overlap() -> None:
    picture = Picture(200, 100, (0, 0, 0))
    shape = Shape("circle", "red", 100, 50, 20, (255, 0, 0))
    truth = box_json(picture, shape)
    assert json.loads(truth) == [{"bbox_2d": [400, 300, 600, 700], "label": "red circle"}]
    question = Question("box", "", truth, "")
    near = '[{"bbox_2d": [430, 330, 630, 730], "label": "red circle"}]'
    assert answer_is_right(question, near)
    assert not answer_is_right(question, near.replace("430", "580"))
    assert not answer_is_right(question, near.replace("red", "blue"))
    for broken in ("", "[]", "[1]", "{}", '[{"bbox_2d": [1, 2], "label": "red circle"}]', near[:9]):
        assert not answer_is_right(question, broken)


def test_iou() -> None:
    assert iou((0, 0, 2, 2), (0, 0, 2, 2)) == 1
    assert iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert iou((0, 0, 1, 1), (1, 1, 2, 2)) == 0


def test_calls_are_compared_as_json() -> None:
    truth = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
    question = Question("tool", "", truth, "")
    assert answer_is_right(question, '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>')
    assert not answer_is_right(question, truth.replace("1", "2"))
    assert not answer_is_right(question, "f(1)")
