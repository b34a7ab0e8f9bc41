"""What a model may write, cut anywhere: reasoning, stop strings, tool calls."""

import json
from collections.abc import Sequence
from itertools import count, pairwise

import orjson
from hypothesis import given
from hypothesis import strategies as st

from server.answer_parts import (
    AnswerPart,
    ContentText,
    ReasoningText,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)
from server.choice import ChoiceReader
from server.engine import GenerationChunk
from server.reasoning import CLOSE_TAG, ReasoningSplitter
from server.stop_strings import StopStrings
from server.tools.json_scanner import JsonScanner
from server.tools.tool_calls import ToolCallParser
from tests.fault.fuzz.mutations import cut

CLOSE_ID = 7
_FRAGMENTS = (
    "<tool_call>",
    "</tool_call>",
    "<tool_call>\n",
    '{"name": "f", "arguments": {"a": 1}}',
    '{"name": "f", "arguments": "{\\"a\\": 1}"}',
    '{"arguments": {"a": [1, {}]}, "name": "f"}',
    '"name"',
    '"arguments"',
    '"f"',
    '"\\ud83d\\ude00"',
    '"\\ud83d',
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    '"',
    "\\",
    "<",
    "</",
    "tool_call>",
    "\n",
    " ",
    "1e5",
    "-0.5",
    "null",
    "true",
    "a",
    "\x01",
)
texts = st.lists(st.sampled_from(_FRAGMENTS) | st.text(max_size=4), max_size=12).map("".join)
json_texts = texts | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
).map(json.dumps)


def merge(parts: Sequence[AnswerPart]) -> list[AnswerPart]:
    """Neighbouring texts of one kind as one."""
    merged: list[AnswerPart] = []
    for part in parts:
        last = merged[-1] if merged else None
        match last, part:
            case ContentText(), ContentText():
                merged[-1] = ContentText(last.text + part.text)
            case ReasoningText(), ReasoningText():
                merged[-1] = ReasoningText(last.text + part.text)
            case ToolCallArguments(), ToolCallArguments() if last.index == part.index:
                merged[-1] = ToolCallArguments(part.index, last.text + part.text)
            case _:
                merged.append(part)
    return merged


def parse_calls(pieces: Sequence[str]) -> list[AnswerPart]:
    ids = count()
    parser = ToolCallParser({"f"}, lambda: str(next(ids)))
    parts = [part for piece in pieces for part in parser.push(piece)]
    return merge([*parts, *parser.flush()])


@given(cut(texts))
def test_tool_calls_are_the_same_however_the_text_is_cut(pieces: list[str]) -> None:
    whole = parse_calls(["".join(pieces)])
    assert parse_calls(pieces) == whole
    assert parse_calls("".join(pieces)) == whole


@given(texts)
def test_a_call_that_ends_has_an_object_as_arguments(text: str) -> None:
    parts = parse_calls([text])
    ended = {part.index for part in parts if isinstance(part, ToolCallEnd)}
    assert ended <= {part.index for part in parts if isinstance(part, ToolCallStart)}
    for index in ended:
        own = [p.text for p in parts if isinstance(p, ToolCallArguments) and p.index == index]
        assert isinstance(json.loads("".join(own)), dict)


@given(texts.filter(lambda text: "<tool_call>" not in text))
def test_text_without_calls_stays_as_it_is(text: str) -> None:
    assert parse_calls([text]) == ([ContentText(text)] if text else [])


@given(json_texts)
def test_the_scanner_ends_where_a_json_parser_does(text: str) -> None:
    scanner = JsonScanner()
    end = scanner.scan(text + " ", 0)  # numbers end with the character after them
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        if scanner.is_complete and not text[end:].strip(" \t\r\n"):
            json.loads(text)  # `1e999`, which is too large for some
    else:
        assert scanner.is_complete and not scanner.is_malformed
        assert not text[end:].strip(" \t\r\n")


def stream_stops(strings: Sequence[str], pieces: Sequence[str]) -> tuple[str, str | None]:
    stops, text = StopStrings(strings, included=False), ""
    for piece in pieces:
        stopped = stops.push(piece)
        text += stopped.text
        if stopped.stop is not None:
            return text, stopped.stop
    return text + stops.flush(), None


@given(
    st.lists(st.text("ab<", min_size=1, max_size=4), min_size=1, max_size=3),
    cut(st.text("ab<", max_size=20)),
)
def test_stop_strings_end_a_stream_where_they_end_the_whole(
    strings: list[str], pieces: list[str]
) -> None:
    text = "".join(pieces)
    expected = stream_stops(strings, [text])
    assert stream_stops(strings, pieces) == expected
    assert stream_stops(strings, text) == expected
    before, stop = expected
    assert text.startswith(before + (stop or ""))
    assert not any(string in before for string in strings)


# Tokens of an answer: its text in pieces, with the end of the reasoning somewhere or nowhere.
tokens = st.lists(
    st.sampled_from(
        [("\n", 1), ("a", 2), ("<", 3), ("think>", 4), ("\n\n", 5), (CLOSE_TAG, CLOSE_ID)]
    ),
    max_size=12,
)


def split(chunks: Sequence[Sequence[tuple[str, int]]]) -> tuple[str, str, int]:
    splitter = ReasoningSplitter(CLOSE_ID)
    reasoning = content = ""
    for chunk in chunks:
        part = splitter.push("".join(text for text, _ in chunk), [token for _, token in chunk])
        reasoning, content = reasoning + part.reasoning, content + part.content
    part = splitter.flush()
    return reasoning + part.reasoning, content + part.content, splitter.num_reasoning_tokens


@given(tokens, st.lists(st.integers(0, 12), max_size=4))
def test_reasoning_is_the_same_however_the_tokens_come(
    answer: list[tuple[str, int]], cuts: list[int]
) -> None:
    bounds = [0, *sorted(cuts), len(answer)]
    chunks = [answer[a:b] for a, b in pairwise(bounds)]
    assert split(chunks) == split([answer]) == split([[token] for token in answer])


def read_choice(chunks: Sequence[Sequence[tuple[str, int]]]) -> list[AnswerPart]:
    ids = count()
    reader = ChoiceReader(
        0,
        splitter=ReasoningSplitter(CLOSE_ID),
        stops=StopStrings(["STOP"], included=True),
        tools=ToolCallParser({"f"}, lambda: str(next(ids))),
    )
    parts: list[AnswerPart] = []
    for index, chunk in enumerate(chunks):
        delta = reader.read(
            GenerationChunk(
                text="".join(text for text, _ in chunk),
                token_ids=tuple(token for _, token in chunk),
                finish_reason="stop" if index == len(chunks) - 1 else None,
            )
        )
        parts += delta.parts
        if delta.stop is not None:
            break
    return merge(parts)


@given(
    st.lists(st.sampled_from([*_FRAGMENTS, "ST", "OP", CLOSE_TAG]), min_size=1, max_size=12),
    st.lists(st.integers(1, 12), max_size=4),
)
def test_an_answer_has_the_same_parts_however_it_comes(
    fragments: list[str], cuts: list[int]
) -> None:
    answer = [(text, CLOSE_ID if text == CLOSE_TAG else 1) for text in fragments]
    bounds = sorted({0, len(answer), *(at for at in cuts if at < len(answer))})
    chunks = [answer[a:b] for a, b in pairwise(bounds)]
    assert read_choice(chunks) == read_choice([answer]) == read_choice([[t] for t in answer])
