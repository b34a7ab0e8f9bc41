"""What evaluation sends is what was drawn, and what it prints is what came back."""

import io
import json
import threading
from types import SimpleNamespace

import numpy as np
from PIL import Image

from demo.evaluate import GROUPS, Case, Outcome, held_out_cases, mp4, png, table, tool_call_text
from demo.skills import answer_is_right
from demo.world import Clip, Picture
from multimodal.options import MediaLimits
from multimodal.video import VideoDecoder


def test_cases_are_the_same_for_a_seed_and_ask_every_skill_both_ways() -> None:
    cases = held_out_cases(3)
    assert cases == held_out_cases(3)
    assert cases != held_out_cases(3, seed=1)
    skills = [skill for _, members in GROUPS.values() for skill in members]
    for skill in skills:
        asked = [case for case in cases if case.question.skill == skill]
        assert [case.is_thinking for case in asked] == [False, True] * 3


def test_pictures_arrive_unchanged() -> None:
    picture = next(c.example.media[0] for c in held_out_cases(1) if c.question.skill == "count")
    assert isinstance(picture, Picture)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(picture)))), picture.draw())


def test_clips_arrive_with_every_frame() -> None:
    clip = next(c.example.media[0] for c in held_out_cases(1) if c.question.skill == "order")
    assert isinstance(clip, Clip)
    decoder = VideoDecoder(1, MediaLimits())
    try:
        with decoder.open(mp4(clip), threading.Event()) as stream:
            assert stream.header.fps == clip.fps
            frames = list(stream.frames(range(len(clip.frames))))
    finally:
        decoder.close()
    height, width = clip.frames[0].height, clip.frames[0].width
    for sent, received in zip(clip.frames, frames, strict=True):
        difference = sent.draw().astype(int) - received[:height, :width]
        assert np.abs(difference).mean() < 8


def test_a_call_is_compared_as_the_model_writes_it() -> None:
    case = next(case for case in held_out_cases(1) if case.question.skill == "tool")
    call = json.loads(case.question.answer.removeprefix("<tool_call>").removesuffix("</tool_call>"))
    function = SimpleNamespace(name=call["name"], arguments=json.dumps(call["arguments"]))
    assert answer_is_right(case.question, tool_call_text(function))


def test_the_table_counts_right_answers() -> None:
    cases = held_out_cases(2)
    outcomes = [answered(case) for case in cases]
    lines = [line.split() for line in table(outcomes)]
    assert ["read_number", "2", "100.0%", "0.0%"] in lines
    assert ["counting", "2", "100.0%", "0.0%", "90%"] in lines


def answered(case: Case) -> Outcome:
    """Right without thinking, wrong with."""
    return Outcome(case, "?" if case.is_thinking else case.question.answer, "")
