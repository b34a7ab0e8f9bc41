import random

import pytest

from server.reasoning import CLOSE_TAG, ReasoningSplitter, Split
from tests.fake_engine import CLOSE_ID

# text of each token; the tag is one of them
TOKENS = ("\n", "I", " see", "\n", "\n", "it", "\n", CLOSE_TAG, "\n", "\n", "A", "\n", " cat")


def read(*pieces: str, ends: bool = True) -> tuple[Split, ReasoningSplitter]:
    """Split pieces; each has one token, but for the tag's, per character."""
    splitter = ReasoningSplitter(CLOSE_ID)
    splits = [splitter.push(piece, token_ids(piece)) for piece in pieces]
    splits += [splitter.flush()] if ends else []
    reasoning = "".join(split.reasoning for split in splits)
    return Split(reasoning, "".join(split.content for split in splits)), splitter


def token_ids(text: str) -> tuple[int, ...]:
    before, tag, after = text.partition(CLOSE_TAG)
    return (*range(len(before)), *([CLOSE_ID] if tag else []), *range(len(after)))


@pytest.mark.parametrize(
    ("pieces", "reasoning", "content"),
    [
        (("\nI see\n</think>\n\nA cat.\n",), "I see", "A cat.\n"),
        (("</think>\n\nA cat.",), "", "A cat."),
        (("I", " see", "\n", CLOSE_TAG, "\n", "\nA"), "I see", "A"),
        (("a\n\nb\n", CLOSE_TAG, "c\n\nd"), "a\n\nb", "c\n\nd"),
        (("I see\n",), "I see\n", ""),
        ((CLOSE_TAG, "x</think>y"), "", "x</think>y"),
    ],
)
def test_what_comes_before_the_closing_token_is_reasoning(pieces, reasoning, content):
    assert read(*pieces)[0] == Split(reasoning, content)


def test_letters_of_the_tag_do_not_close_the_block():
    splitter = ReasoningSplitter(CLOSE_ID)
    assert splitter.push("a</think>b", (1, 2, 3)) == Split("a</think>b", "")
    assert splitter.is_reasoning


def test_every_way_to_cut_an_answer_gives_the_same_split():
    draw = random.Random(1)
    for _ in range(200):
        pieces, rest = [], list(TOKENS)
        while rest:
            size = draw.randint(1, 4)
            pieces.append("".join(rest[:size]))
            rest = rest[size:]
        split, splitter = read(*pieces)
        assert split == Split("I see\n\nit", "A\n cat")
        assert splitter.num_reasoning_tokens == len("".join(TOKENS[:7]))


def test_reasoning_is_not_held_back_but_for_line_breaks():
    splitter = ReasoningSplitter(CLOSE_ID)
    assert splitter.push("I <", (1, 2)) == Split("I <", "")
    assert splitter.push("\n", (3,)) == Split("", "")
    assert splitter.push("b", (4,)) == Split("\nb", "")


@pytest.mark.parametrize(
    ("pieces", "num_tokens"),
    [(("abc",), 3), (("ab", "c</think>d"), 3), (("</think>abc",), 0), (("a", CLOSE_TAG, "b"), 1)],
)
def test_reasoning_tokens_are_those_before_the_tag(pieces, num_tokens):
    assert read(*pieces)[1].num_reasoning_tokens == num_tokens
