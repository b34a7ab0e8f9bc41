"""Drawn workloads: the same conversation for the same number, and nothing new comes twice."""

import base64
import pickle
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any, get_args

import orjson
import pytest

from benchmarks.workload.error import WorkloadError
from benchmarks.workload.image_sizes import ImageSizes
from benchmarks.workload.int_range import IntRange
from benchmarks.workload.mixture import MIXED, Mixture
from benchmarks.workload.options import WorkloadName, WorkloadOptions
from benchmarks.workload.turn import Turn
from benchmarks.workload.workload import Workload

SMALL = WorkloadOptions(
    image_sizes=ImageSizes.parse("96x64:3,64x80:1"),
    turns=3,
    pages=2,
    questions=3,
    video_seconds=2,
    window_seconds=1,
    stride_seconds=1,
)


def make_workload(name: WorkloadName, **options: Any) -> Workload:
    return Workload(replace(SMALL, name=name, **options))


def parts(turn: Turn, message: int = -1) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = orjson.loads(turn.messages[message])["content"]
    return content


def urls(turn: Turn) -> list[str]:
    """Of the images in the last message."""
    return [part["image_url"]["url"] for part in parts(turn) if part["type"] == "image_url"]


def types(turn: Turn) -> list[str]:
    return [part["type"] for part in parts(turn)]


def text(turn: Turn) -> str:
    (found,) = (part["text"] for part in parts(turn) if part["type"] == "text")
    return str(found)


@pytest.mark.parametrize("name", get_args(WorkloadName))
def test_a_conversation_depends_on_options_and_number_alone(name: WorkloadName) -> None:
    workload = make_workload(name)
    copy = pickle.loads(pickle.dumps(workload))
    conversation = workload.conversation(3)
    assert copy.conversation(3) == conversation
    assert workload.conversation(4) != conversation
    assert make_workload(name, seed=1).conversation(3) != conversation
    assert workload.num_distinct is None


@pytest.mark.parametrize("name", ["chat", "mlperf"])
def test_texts_begin_differently(name: WorkloadName) -> None:
    workload = make_workload(name)
    beginnings = {text(workload.conversation(index)[0])[:8] for index in range(50)}
    assert len(beginnings) == 50


def test_lengths_are_drawn_from_their_ranges() -> None:
    workload = make_workload("chat", input_tokens=IntRange(100, 120), output_tokens=IntRange(5, 7))
    turns = [workload.conversation(index)[0] for index in range(40)]
    assert {turn.max_tokens for turn in turns} == {5, 6, 7}
    assert all(90 <= len(text(turn).split()) <= 120 for turn in turns)


def test_images_are_new_and_come_before_the_question() -> None:
    workload = make_workload("images", images_per_request=2)
    turns = [workload.conversation(index)[0] for index in range(10)]
    assert {tuple(types(turn)) for turn in turns} == {("image_url", "image_url", "text")}
    assert {(turn.num_images, turn.num_videos) for turn in turns} == {(2, 0)}
    assert len({url for turn in turns for url in urls(turn)}) == 20


@pytest.mark.parametrize(("reuse", "num_new"), [(0.0, 40), (0.3, 28), (0.75, 10), (1.0, 1)])
def test_reuse_repeats_the_share_that_is_asked_for(reuse: float, num_new: int) -> None:
    workload = make_workload("reuse", reuse=reuse)
    turns = [workload.conversation(index)[0] for index in range(40)]
    assert len({urls(turn)[0] for turn in turns}) == num_new
    assert len({text(turn) for turn in turns}) == 40
    assert {tuple(types(turn)) for turn in turns} == {("text", "image_url")}


def test_an_agent_sends_all_that_was_said_before_with_a_new_screenshot() -> None:
    turns = make_workload("agent").conversation(0)
    assert [turn.num_images for turn in turns] == [1, 2, 3]
    assert [len(turn.messages) for turn in turns] == [1, 3, 5]
    for earlier, later in pairwise(turns):
        assert all(a is b for a, b in zip(earlier.messages, later.messages, strict=False)), (
            "the history is encoded again"
        )
    roles = [orjson.loads(message)["role"] for message in turns[-1].messages]
    assert roles == ["user", "assistant", "user", "assistant", "user"]
    assert len({urls(turn)[0] for turn in turns}) == 3


def test_all_pages_come_with_the_first_question_about_a_document() -> None:
    turns = make_workload("documents").conversation(0)
    assert types(turns[0]) == ["image_url", "image_url", "text"]
    assert [types(turn) for turn in turns[1:]] == [["text"], ["text"]]
    assert [turn.num_images for turn in turns] == [2, 2, 2]


def test_a_video_is_one_file_with_one_question() -> None:
    (turn,) = make_workload("video").conversation(0)
    assert types(turn) == ["video_url", "text"]
    assert (turn.num_images, turn.num_videos) == (0, 1)


def test_windows_slide_over_one_clip_without_history() -> None:
    turns = make_workload("windows", video_seconds=4, window_seconds=2).conversation(0)
    assert [len(turn.messages) for turn in turns] == [1, 1, 1]
    assert [turn.num_videos for turn in turns] == [1, 1, 1]
    windows = []
    for turn in turns:
        media_type, frames = parts(turn)[0]["video_url"]["url"].split(",", 1)
        assert media_type == "data:video/jpeg;base64"
        windows.append([base64.b64decode(frame) for frame in frames.split(",")])
    assert [len(window) for window in windows] == [4, 4, 4]
    assert windows[0][2:] == windows[1][:2]
    assert windows[1][2:] == windows[2][:2]


def test_a_mixture_holds_its_shares_and_numbers_each_workload_without_gaps() -> None:
    mixture = Mixture(0, MIXED)
    places = [mixture.place(index) for index in range(3 * mixture.block_length)]
    assert Counter(name for name, _ in places) == {name: 3 * share for name, share in MIXED.items()}
    for name, share in MIXED.items():
        assert [number for other, number in places if other == name] == list(range(3 * share))


def test_ranges_and_sizes_are_read() -> None:
    assert IntRange.parse("64-256") == IntRange(64, 256)
    assert IntRange.parse("128") == IntRange(128, 128)
    assert ImageSizes.parse("640x480:3, 1024x768") == ImageSizes(
        ((640, 480), (1024, 768)), (3.0, 1.0)
    )


@pytest.mark.parametrize("given", ["x", "5-", "-5", "9-3", "0", "1-2-3"])
def test_ranges_that_are_none_are_refused(given: str) -> None:
    with pytest.raises(WorkloadError, match="range"):
        IntRange.parse(given)


@pytest.mark.parametrize(
    "given", ["", "640", "640x480:", "640x480:-1", "9x9", "64x9999", "64x64:0"]
)
def test_sizes_that_are_none_are_refused(given: str) -> None:
    with pytest.raises(WorkloadError, match="image size"):
        ImageSizes.parse(given)


@pytest.mark.parametrize(
    ("field", "value"),
    [("reuse", 1.1), ("reuse", -0.1), ("turns", 0), ("pages", 0), ("video_seconds", 0.5)],
)
def test_options_out_of_bounds_are_refused(field: str, value: Any) -> None:
    with pytest.raises(WorkloadError, match=field):
        replace(SMALL, **{field: value})
