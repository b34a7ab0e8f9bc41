import random

import pytest

from server.stop_strings import Stopped, StopStrings


def read(stops: StopStrings, *pieces: str) -> tuple[str, str | None]:
    """The whole text, and what ended it."""
    text = ""
    for piece in pieces:
        stopped = stops.push(piece)
        text += stopped.text
        if stopped.stop is not None:
            return text, stopped.stop
    return text + stops.flush(), None


@pytest.mark.parametrize(
    ("strings", "text", "expected"),
    [
        (["x"], "abcxdef", ("abc", "x")),
        (["x"], "abc", ("abc", None)),
        (["bcd", "b"], "abcd", ("a", "b")),
        (["abcd", "bc"], "abcd", ("a", "bc")),
        (["\n\n"], "a\nb\n", ("a\nb\n", None)),
        (["aab"], "aaab", ("a", "aab")),
    ],
)
def test_first_string_to_be_complete_ends_the_text_however_it_is_cut(strings, text, expected):
    assert read(StopStrings(strings, included=False), text) == expected
    assert read(StopStrings(strings, included=False), *text) == expected
    draw = random.Random(2)
    for _ in range(50):
        cut = draw.randint(0, len(text))
        assert read(StopStrings(strings, included=False), text[:cut], text[cut:])[1] == expected[1]


def test_string_can_be_part_of_the_text():
    assert read(StopStrings(["END"], included=True), "a E", "ND b") == ("a END", "END")


def test_only_what_may_become_a_stop_string_is_held_back():
    stops = StopStrings(["</a>"], included=False)
    assert stops.push("x <") == Stopped("x ")
    assert stops.push("/b") == Stopped("</b")


def test_text_before_the_minimum_ends_nothing():
    stops = StopStrings(["x"], included=False)
    assert stops.push("axb", is_armed=False) == Stopped("axb")
    assert stops.push("cxd") == Stopped("c", "x")
