import pytest

from server.errors import InvalidRequest
from server.reasoning import ReasoningSplitter, Split, resolve_thinking

THINKING = {"starts_in_reasoning": True, "may_reason": True}
HYBRID = {"starts_in_reasoning": False, "may_reason": True}
INSTRUCT = {"starts_in_reasoning": False, "may_reason": False}


def split(text: str, size: int, **flags) -> Split:
    """The whole split of `text` when it arrives in pieces of `size` characters."""
    splitter = ReasoningSplitter(**flags)
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    parts = [splitter.push(piece, 1) for piece in pieces] + [splitter.flush()]
    return Split("".join(p.reasoning for p in parts), "".join(p.content for p in parts))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000])
@pytest.mark.parametrize(
    ("text", "flags", "reasoning", "content"),
    [
        ("I see\n</think>\n\nA cat.", THINKING, "I see", "A cat."),
        ("\nI see\n\n</think>A cat.", THINKING, "I see", "A cat."),
        ("a\n\nb < c </thin</think>d", THINKING, "a\n\nb < c </thin", "d"),
        ("a</think>b</think>c", THINKING, "a", "b</think>c"),
        ("cut short </thi", THINKING, "cut short </thi", ""),
        ("</think>only content", THINKING, "", "only content"),
        ("<think>\nI see\n</think>\n\nA cat.", HYBRID, "I see", "A cat."),
        (" \n<think>I see</think>A cat.", HYBRID, "I see", "A cat."),
        ("A cat. <think>no</think>", HYBRID, "", "A cat. <think>no</think>"),
        ("<thin ice", HYBRID, "", "<thin ice"),
        ("<thi", HYBRID, "", "<thi"),
        ("\n indented", HYBRID, "", "\n indented"),
        ("<think>x</think>\n\ny", INSTRUCT, "", "<think>x</think>\n\ny"),
        ("\nA cat.", INSTRUCT, "", "\nA cat."),
    ],
)
def test_text_is_split_alike_however_it_arrives(size, text, flags, reasoning, content):
    assert split(text, size, **flags) == Split(reasoning, content)


def test_beginning_of_a_closing_tag_is_held_back():
    splitter = ReasoningSplitter(**THINKING)
    assert splitter.push("done </th", 1) == Split("done ", "")
    assert splitter.push("ere", 1) == Split("</there", "")


def test_content_of_an_instruct_answer_is_never_held_back():
    assert ReasoningSplitter(**INSTRUCT).push("a </th\n", 1) == Split("", "a </th\n")


def test_tokens_before_the_content_count_as_reasoning():
    splitter = ReasoningSplitter(**THINKING)
    for text, num_tokens in (("I ", 2), ("see", 3), ("</think>", 1), ("A cat.", 4)):
        splitter.push(text, num_tokens)
    assert splitter.num_reasoning_tokens == 6


def test_undecided_tokens_count_once_reasoning_has_begun():
    splitter = ReasoningSplitter(**HYBRID)
    for text in ("<th", "ink>", "x", "</think>", "y"):
        splitter.push(text, 1)
    assert splitter.num_reasoning_tokens == 4


@pytest.mark.parametrize("flags", [HYBRID, INSTRUCT])
def test_answer_without_reasoning_has_no_reasoning_tokens(flags):
    splitter = ReasoningSplitter(**flags)
    splitter.push("<thin ice", 3)
    assert splitter.num_reasoning_tokens == 0


@pytest.mark.parametrize("wanted", [True, False, None])
def test_hybrid_checkpoint_has_the_choice(wanted):
    assert resolve_thinking("hybrid", wanted) is wanted


@pytest.mark.parametrize(("kind", "wanted"), [("thinking", True), ("instruct", False)])
def test_asking_for_what_the_checkpoint_does_is_fine(kind, wanted):
    assert resolve_thinking(kind, wanted) is None


@pytest.mark.parametrize(("kind", "wanted"), [("thinking", False), ("instruct", True)])
def test_asking_for_what_the_checkpoint_cannot_do_says_what_it_is(kind, wanted):
    with pytest.raises(InvalidRequest, match=kind) as caught:
        resolve_thinking(kind, wanted)
    assert caught.value.param == "chat_template_kwargs.enable_thinking"
