"""One choice: reasoning, content up to a stop string, tool calls; however the text is cut."""

import itertools
from collections.abc import Iterable

import pytest

from server.answer_parts import (
    AnswerPart,
    ContentText,
    ReasoningText,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallFailed,
    ToolCallStart,
)
from server.choice import ChoiceReader, Delta
from server.engine import GenerationChunk, TokenLogprob
from server.errors import EngineFailed
from server.reasoning import ReasoningSplitter
from server.stop_strings import StopStrings
from server.tools.tool_calls import ToolCallParser
from tests.fake_engine import CLOSE_ID, make_chunk

CALL = '<tool_call>\n{"name": "look", "arguments": {"x": "STOP"}}\n</tool_call>'
BROKEN = '<tool_call>\n{"name": "look", "arguments": {"x": "STOP"'


def make_reader(
    *,
    reasons: bool = False,
    stop: str | None = None,
    included: bool = False,
    min_tokens: int = 0,
    calls: bool = False,
) -> ChoiceReader:
    ids = (f"id{number}" for number in itertools.count())
    return ChoiceReader(
        3,
        splitter=ReasoningSplitter(CLOSE_ID) if reasons else None,
        stops=StopStrings([stop], included=included) if stop else None,
        min_tokens=min_tokens,
        tools=ToolCallParser({"look"}, lambda: next(ids)) if calls else None,
    )


def read_all(reader: ChoiceReader, chunks: Iterable[GenerationChunk]) -> list[Delta]:
    """The deltas up to the one that ends the choice."""
    deltas: list[Delta] = []
    for chunk in chunks:
        deltas.append(reader.read(chunk))
        if deltas[-1].finish_reason is not None:
            break
    return deltas


def join(deltas: Iterable[Delta], kind: type[AnswerPart]) -> str:
    return "".join(part.text for delta in deltas for part in delta.parts if isinstance(part, kind))


def in_letters(text: str, finish: str = "stop") -> list[GenerationChunk]:
    """A chunk, and a token, for each letter of the text and each `</think>`."""
    head, tag, tail = text.rpartition("</think>")
    pieces = [*head, *([tag] if tag else []), *tail]
    return [make_chunk(piece, token_ids=_token(piece)) for piece in pieces] + [
        make_chunk("", token_ids=(), finish=finish)
    ]


def _token(piece: str) -> tuple[int, ...]:
    return (CLOSE_ID,) if piece == "</think>" else (1,)


def test_a_delta_has_what_is_new() -> None:
    logprobs = (TokenLogprob(1, b"A", -1.0),)
    delta = make_reader().read(make_chunk("A cat", logprobs=logprobs))
    assert delta == Delta(3, (ContentText("A cat"),), logprobs, None, None, 2)
    assert make_reader().read(make_chunk("", finish="length")) == Delta(3, (), (), "length")


@pytest.mark.parametrize("finish", ["abort", "error"])
def test_an_engine_that_gives_up_is_an_error(finish: str) -> None:
    with pytest.raises(EngineFailed):
        make_reader().read(make_chunk("A", finish=finish))


def test_reasoning_comes_first_and_is_counted_without_its_tag() -> None:
    reader = make_reader(reasons=True)
    assert reader.can_reason and reader.is_reasoning
    deltas = read_all(reader, in_letters("hm\n</think>\n\nyes"))
    assert (join(deltas, ReasoningText), join(deltas, ContentText)) == ("hm", "yes")
    assert (reader.num_reasoning_tokens, reader.num_tokens) == (3, 9)
    assert sum(delta.num_tokens for delta in deltas) == reader.num_tokens
    assert not reader.is_reasoning


def test_reasoning_that_is_cut_is_all_given() -> None:
    reader = make_reader(reasons=True, stop="STOP", calls=True)
    deltas = read_all(reader, [make_chunk("I see\n\n"), make_chunk("", finish="length")])
    assert join(deltas, ReasoningText) == "I see\n\n"
    assert reader.is_reasoning and deltas[-1].finish_reason == "length"


@pytest.mark.parametrize(("included", "content"), [(False, "one "), (True, "one STOP")])
@pytest.mark.parametrize("cut", range(11))
def test_a_stop_string_ends_the_content_wherever_it_is_cut(
    cut: int, included: bool, content: str
) -> None:
    text = "one STOP two"
    chunks = [make_chunk(text[:cut]), make_chunk(text[cut:]), make_chunk("", finish="length")]
    deltas = read_all(make_reader(stop="STOP", included=included), chunks)
    assert join(deltas, ContentText) == content
    assert (deltas[-1].finish_reason, deltas[-1].stop) == ("stop", "STOP")
    assert all(delta.stop is None for delta in deltas[:-1])


def test_what_only_begins_as_a_stop_string_is_given_in_the_end() -> None:
    deltas = read_all(make_reader(stop="STOP"), in_letters("one STO"))
    assert join(deltas, ContentText) == "one STO"
    assert (deltas[-1].finish_reason, deltas[-1].stop) == ("stop", None)


def test_a_stop_string_in_the_reasoning_is_text() -> None:
    deltas = read_all(make_reader(reasons=True, stop="STOP"), in_letters("STOP</think>a STOP b"))
    assert (join(deltas, ReasoningText), join(deltas, ContentText)) == ("STOP", "a ")
    assert deltas[-1].stop == "STOP"


def test_a_stop_string_does_not_reach_over_the_end_of_the_reasoning() -> None:
    deltas = read_all(make_reader(reasons=True, stop="STOP"), in_letters("ST</think>OP"))
    assert (join(deltas, ReasoningText), join(deltas, ContentText)) == ("ST", "OP")


def test_stop_strings_wait_for_the_least_number_of_tokens() -> None:
    chunks = [make_chunk("a STOP b"), make_chunk("STOP c"), make_chunk("", finish="stop")]
    deltas = read_all(make_reader(stop="STOP", min_tokens=3), chunks)
    assert join(deltas, ContentText) == "a STOP b"
    assert deltas[-1].stop == "STOP"


def test_tokens_of_the_reasoning_count_to_the_least_number() -> None:
    reader = make_reader(reasons=True, stop="STOP", min_tokens=3)
    deltas = read_all(reader, [make_chunk("a b c</think>"), make_chunk("d STOP")])
    assert join(deltas, ContentText) == "d "


def test_a_call_is_parts_and_ends_as_tool_calls() -> None:
    reader = make_reader(reasons=True, calls=True)
    deltas = read_all(reader, in_letters(f"hm\n</think>\n\nI look.\n{CALL}"))
    parts = [part for delta in deltas for part in delta.parts]
    assert (join(deltas, ReasoningText), join(deltas, ContentText)) == ("hm", "I look.")
    assert join(deltas, ToolCallArguments) == '{"x": "STOP"}'
    assert ToolCallStart(0, "id0", "look") in parts and parts[-1] == ToolCallEnd(0)
    assert deltas[-1].finish_reason == "tool_calls"


def test_a_call_in_the_reasoning_is_text() -> None:
    deltas = read_all(make_reader(reasons=True, calls=True), in_letters(f"{CALL}</think>a"))
    assert (join(deltas, ReasoningText), join(deltas, ContentText)) == (CALL, "a")
    assert deltas[-1].finish_reason == "stop"


def test_a_choice_that_is_cut_behind_its_call_ends_as_length() -> None:
    deltas = read_all(make_reader(calls=True), in_letters(CALL, finish="length"))
    assert deltas[-1].finish_reason == "length"


def test_a_call_without_its_closing_tag_is_a_call() -> None:
    text = CALL.removesuffix("\n</tool_call>")
    deltas = read_all(make_reader(calls=True), in_letters(text))
    assert deltas[-1].parts == (ToolCallEnd(0),)
    assert deltas[-1].finish_reason == "tool_calls"


@pytest.mark.parametrize("finish", ["stop", "length"])
def test_a_call_that_is_cut_has_failed(finish: str) -> None:
    deltas = read_all(make_reader(calls=True), in_letters(BROKEN, finish))
    assert deltas[-1].parts == (ToolCallFailed(0, BROKEN),)
    assert deltas[-1].finish_reason == finish


def test_a_failed_call_beside_a_good_one_leaves_tool_calls() -> None:
    deltas = read_all(make_reader(calls=True), in_letters(f"{CALL}\n{BROKEN}"))
    assert deltas[-1].parts == (ToolCallFailed(1, BROKEN),)
    assert deltas[-1].finish_reason == "tool_calls"


def test_a_stop_string_in_a_call_ends_it_as_failed() -> None:
    deltas = read_all(make_reader(stop="STOP", calls=True), in_letters(CALL))
    raw = CALL.partition("STOP")[0]
    assert deltas[-1].parts == (ToolCallFailed(0, raw),)
    assert (deltas[-1].finish_reason, deltas[-1].stop) == ("stop", "STOP")


def test_a_stop_string_behind_a_call_leaves_the_call() -> None:
    deltas = read_all(make_reader(stop="\n\n", calls=True), in_letters(f"{CALL}\n\nmore"))
    assert join(deltas, ToolCallArguments) == '{"x": "STOP"}'
    assert (deltas[-1].finish_reason, deltas[-1].stop) == ("tool_calls", "\n\n")
