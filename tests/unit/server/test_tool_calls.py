import json
import random
from collections.abc import Iterable, Iterator
from itertools import pairwise

import pytest

from server.answer_parts import (
    AnswerPart,
    ContentText,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallFailed,
    ToolCallStart,
)
from server.tools.tool_calls import ToolCallParser

TOOL_NAMES = {"f", "get_weather"}
CALL = '<tool_call>\n{"name": "f", "arguments": {"city": "Paris", "n": 3}}\n</tool_call>'
ARGUMENTS = '{"city": "Paris", "n": 3}'


def make_parser() -> ToolCallParser:
    ids = iter(f"call_{number}" for number in range(1_000_000))
    return ToolCallParser(TOOL_NAMES, lambda: next(ids))


def merge(parts: Iterable[AnswerPart]) -> Iterator[AnswerPart]:
    """The parts with neighbouring texts of one kind as one."""
    last: AnswerPart | None = None
    for part in parts:
        if isinstance(part, ContentText) and isinstance(last, ContentText):
            last = ContentText(last.text + part.text)
        elif isinstance(part, ToolCallArguments) and isinstance(last, ToolCallArguments):
            assert part.index == last.index
            last = ToolCallArguments(part.index, last.text + part.text)
        else:
            if last is not None:
                yield last
            last = part
    if last is not None:
        yield last


def parse_pieces(pieces: Iterable[str]) -> list[AnswerPart]:
    parser = make_parser()
    parts = [part for piece in pieces for part in parser.push(piece)]
    return list(merge([*parts, *parser.flush()]))


def parse(text: str) -> list[AnswerPart]:
    """The parts of an answer, which arrive alike in one piece and in single characters."""
    whole = parse_pieces([text])
    assert parse_pieces(text) == whole
    return whole


def call_parts(arguments: str, index: int = 0, name: str = "f") -> list[AnswerPart]:
    return [
        ToolCallStart(index, f"call_{index}", name),
        ToolCallArguments(index, arguments),
        ToolCallEnd(index),
    ]


def failed_parts(arguments: str, raw: str, index: int = 0) -> list[AnswerPart]:
    start, text, _ = call_parts(arguments, index)
    return [start, *([text] if arguments else []), ToolCallFailed(index, raw)]


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("", []),
        ("Hello.", [ContentText("Hello.")]),
        ("a <b> < <tool_cal <tool_call", [ContentText("a <b> < <tool_cal <tool_call")]),
        ("<<tool_call </tool_call>\n", [ContentText("<<tool_call </tool_call>\n")]),
        (" \n", [ContentText(" \n")]),
        ("Hello. \n\n", [ContentText("Hello. \n\n")]),
    ],
)
def test_text_without_calls_is_content(text, content):
    assert parse(text) == content


@pytest.mark.parametrize(
    "text",
    [
        CALL,
        CALL.replace("\n", ""),
        f"\n\n{CALL}\n",
        f"{CALL} \n\n ",
        f'<tool_call> \r\n\t{{ "name" :"f" ,\n"arguments" :{ARGUMENTS} }} \n\n</tool_call>',
        f'<tool_call>{{"name": "f", "parameters": {ARGUMENTS}}}</tool_call>',
        f'<tool_call>{{"arguments": {ARGUMENTS}, "name": "f"}}</tool_call>',
        f'<tool_call>{{"arguments": {json.dumps(ARGUMENTS)}, "name": "f"}}</tool_call>',
        f'<tool_call>{{"name": "f", "arguments": {json.dumps(ARGUMENTS)}}}</tool_call>',
        f'<tool_call>{{"\\u006eame": "\\u0066", "arguments": {ARGUMENTS}}}</tool_call>',
        '<tool_call>{"id": 1, "name": "f", "more": [{"name": 1}, 2.5], "arguments": '
        f'{ARGUMENTS}, "last": "x"}}</tool_call>',
    ],
)
def test_a_call_is_read_in_whatever_form(text):
    assert parse(text) == call_parts(ARGUMENTS)


@pytest.mark.parametrize(
    "rest",
    ["", ', "arguments": null', ', "arguments": {}', ', "arguments": "{}"', ', "other": [1]'],
)
def test_a_call_without_arguments_has_an_empty_object(rest):
    assert parse(f'<tool_call>{{"name": "f"{rest}}}</tool_call>') == call_parts("{}")


def test_no_arguments_may_come_before_the_name():
    assert parse('<tool_call>{"arguments": null, "name": "f"}</tool_call>') == call_parts("{}")


def test_arguments_are_handed_on_as_the_model_wrote_them():
    arguments = '{ "b":1.50,"a" : "</tool_call>\\u00e9\\ud83d\\ude00 <tool_call>\\"}", "a": [ ] }'
    text = f'<tool_call>\n{{"name": "f", "arguments":  {arguments}  }}\n</tool_call>'
    assert parse(text) == call_parts(arguments)


@pytest.mark.parametrize("between", ["", "\n", " \n\n"])
def test_calls_follow_each_other(between):
    second = '<tool_call>\n{"name": "get_weather", "arguments": {}}\n</tool_call>'
    expected = [*call_parts(ARGUMENTS), *call_parts("{}", 1, "get_weather")]
    assert parse(CALL + between + second) == expected


def test_text_stands_before_between_and_after_calls():
    assert parse(f"  One. \n\n{CALL}\n\n Two.\n{CALL}\nThree. \n") == [
        ContentText("  One. "),
        *call_parts(ARGUMENTS),
        ContentText("Two."),
        *call_parts(ARGUMENTS, 1),
        ContentText("Three. \n"),
    ]


MALFORMED_BEFORE_THE_START = [
    "<tool_call>",
    "<tool_call>\nfree text",
    "<tool_call>[1]\n</tool_call>",
    "<tool_call>{}</tool_call>",
    '<tool_call>{"name": "unknown", "arguments": {}}\n</tool_call>',
    '<tool_call>{"arguments": {"a": 1}, "name": "unknown"}</tool_call>',
    '<tool_call>{"name": null, "arguments": {}}</tool_call>',
    '<tool_call>{"name": ["f"]}</tool_call>',
    '<tool_call>{"arguments": {"a": 1}}</tool_call>',
    '<tool_call>{"arguments": [1], "name": "f"}</tool_call>',
    '<tool_call>{"arguments": "[1]", "name": "f"}</tool_call>',
    '<tool_call>{"arguments": {}, "arguments": {}, "name": "f"}</tool_call>',
    '<tool_call>{"arguments": {}, "parameters": {}, "name": "f"}</tool_call>',
    '<tool_call>{"arguments": {"a": 1}, "name": "f"',
    '<tool_call>{"arguments": {"a": tru}, "name": "f"}</tool_call>',
    '<tool_call>{"na',
    '<tool_call>{"name": "f',
    '<tool_call>{"other": 01, "name": "f"}</tool_call>',
    '<tool_call>{name: "f"}</tool_call>',
    '<tool_call>{1: 2, "name": "f"}</tool_call>',
    '<tool_call>{"name"; "f"}</tool_call>',
    '<tool_call>{,"name": "f"}</tool_call>',
    '<tool_call>{"name" "f"}</tool_call>',
    '<tool_call>\n{"name": "\n"}\n</tool_call>\n',
]


@pytest.mark.parametrize("text", MALFORMED_BEFORE_THE_START)
def test_what_was_never_a_call_is_content_as_it_stands(text):
    assert parse(text) == [ContentText(text)]
    assert parse(f"Hi\n{text}") == [ContentText(f"Hi\n{text}")]


@pytest.mark.parametrize("text", MALFORMED_BEFORE_THE_START)
def test_a_call_is_found_after_what_was_none(text):
    content = text.rstrip("\n")
    assert parse(f"{text}\n{CALL}") == [ContentText(content), *call_parts(ARGUMENTS)]


@pytest.mark.parametrize(
    ("raw", "arguments", "rest"),
    [
        ('<tool_call>{"name": "f", "arguments": {"a": ', '{"a": ', "x}}</tool_call>"),
        ('<tool_call>{"name": "f", "arguments": {"a": "b"', '{"a": "b"', "]}</tool_call>"),
        ('<tool_call>{"name": "f", "arguments": ', "", "[1]}</tool_call>"),
        ('<tool_call>{"name": "f", "arguments": ', "", "7}</tool_call>"),
        ('<tool_call>{"name": "f", "arguments": "[1]"', "", "}"),
        ('<tool_call>{"name": "f", "arguments": "\\"{}\\""', "", "}"),
        ('<tool_call>{"name": "f", "arguments": n', "", "ever}"),
        ('<tool_call>{"name": "f", "arguments": {}, "arguments"', "{}", ": {}}</tool_call>"),
        ('<tool_call>{"name": "f", "arguments": {}, "parameters"', "{}", ": {}}</tool_call>"),
        ('<tool_call>{"name": "f", "name"', "", ': "f"}</tool_call>'),
        ('<tool_call>{"name": "f", "arguments": {}} ', "{}", "} x"),
        ('<tool_call>{"name": "f", "arguments": {}}\n', "{}", "</tool_calls>"),
        ('<tool_call>{"name": "f", "arguments": {"a": [1', '{"a": [1', ""),
        ('<tool_call>{"name": "f", "arguments": {}', "{}", ""),
        ('<tool_call>{"name": "f", ', "", ""),
        ('<tool_call>{"arguments": {"b": 2}, "name": "f"}', '{"b": 2}', "}"),
    ],
)
def test_what_goes_wrong_after_its_start_is_a_failed_call(raw, arguments, rest):
    content = [ContentText(rest)] if rest else []
    assert parse(raw + rest) == [*failed_parts(arguments, raw), *content]


def test_nesting_beyond_the_limit_is_a_failed_call():
    open_lists = '{"a": ' + "[" * 63
    raw = f'<tool_call>{{"name": "f", "arguments": {open_lists}'
    assert parse(f"{raw}[") == [*failed_parts(open_lists, raw), ContentText("[")]


def test_a_failed_call_keeps_its_index():
    raw = '<tool_call>{"name": "f", "arguments": {'
    expected = [
        *failed_parts("{", raw),
        ContentText("x} \n</tool_call>"),
        *call_parts(ARGUMENTS, 1),
    ]
    assert parse(f"{raw}x}} \n</tool_call>\n{CALL}") == expected


def test_text_after_a_failed_call_keeps_its_whitespace():
    raw = '<tool_call>{"name": "f", "arguments": {"a": "b'
    assert parse(f"{CALL}{raw}\n c") == [
        *call_parts(ARGUMENTS),
        *failed_parts('{"a": "b', raw, 1),
        ContentText("\n c"),
    ]


def test_a_call_is_found_where_another_breaks_off():
    raw = '<tool_call>{"name": "f", "arguments": {'
    assert parse(raw + CALL) == [*failed_parts("{", raw), *call_parts(ARGUMENTS, 1)]
    raw = '<tool_call>{"name": "f", "arguments": {}}\n'
    assert parse(raw + CALL) == [*failed_parts("{}", raw), *call_parts(ARGUMENTS, 1)]
    assert parse(f"<tool_call>\n{CALL}") == [ContentText("<tool_call>"), *call_parts(ARGUMENTS)]


def test_text_after_a_call_that_was_none_keeps_its_whitespace():
    assert parse(f"{CALL}\n<tool_call>x\n\n y") == [
        *call_parts(ARGUMENTS),
        ContentText("<tool_call>x\n\n y"),
    ]


@pytest.mark.parametrize("missing", ["\n</tool_call>", "</tool_call>", "_call>", ">"])
def test_an_answer_may_end_without_the_closing_tag(missing):
    assert parse(CALL.removesuffix(missing)) == call_parts(ARGUMENTS)


def test_a_call_is_announced_and_its_arguments_follow_as_soon_as_they_are_clear():
    parser = make_parser()
    assert parser.push('<tool_call>\n{"name": "f') == []
    assert parser.push('"') == [ToolCallStart(0, "call_0", "f")]
    assert parser.push(', "arguments": {"ci') == [ToolCallArguments(0, '{"ci')]
    assert parser.push('ty": "Par') == [ToolCallArguments(0, 'ty": "Par')]
    assert parser.push('is"} ') == [ToolCallArguments(0, 'is"}')]
    assert parser.push("}\n</tool_call") == []
    assert parser.num_calls == 0
    assert parser.push("> \n") == [ToolCallEnd(0)]
    assert parser.num_calls == 1
    assert parser.push("x") == [ContentText("x")]
    assert parser.flush() == []


def test_arguments_before_the_name_are_handed_on_when_the_object_ends():
    parser = make_parser()
    assert parser.push('<tool_call>{"arguments": {"a": 1}, "name": "f"') == []
    start, arguments, end = call_parts('{"a": 1}')
    assert parser.push("}") == [start, arguments]
    assert parser.push("</tool_call>") == [end]


def test_only_what_may_belong_to_a_call_is_held_back():
    parser = make_parser()
    assert parser.push("One. \n<tool_c") == [ContentText("One.")]
    assert parser.push("ure> ") == [ContentText(" \n<tool_cure>")]
    assert parser.push("two\n\n") == [ContentText(" two")]
    assert parser.flush() == [ContentText("\n\n")]


def test_failed_calls_do_not_count():
    parser = make_parser()
    parser.push(f'{CALL}<tool_call>{{"name": "f", "arguments": {{x}}}}</tool_call>{CALL}')
    assert parser.num_calls == 2


def make_answer(generator: random.Random) -> str:
    """Calls, other text, and calls that have lost or gained a few characters."""
    pieces = []
    for _ in range(generator.randrange(1, 6)):
        piece = generator.choice(
            [
                CALL,
                '<tool_call>{"arguments": {"a": "\\ud83d\\ude00"}, "name": "f"}</tool_call>',
                '<tool_call>{"name": "f", "arguments": "{\\"a\\": [1]}", "x": 1e5}</tool_call>',
                '<tool_call>{"name": "g", "arguments": {}}</tool_call>',
                generator.choice(MALFORMED_BEFORE_THE_START),
                " text <tool_call <b>\n\n",
                "\n \n",
            ]
        )
        if generator.random() < 0.4:
            start = generator.randrange(len(piece))
            inserted = generator.choice(["", "x", '"', "}", "\n", "<", "<tool_call>", "1"])
            piece = piece[:start] + inserted + piece[start + generator.randrange(3) :]
        pieces.append(piece)
    return "".join(pieces)


def cut(text: str, generator: random.Random) -> list[str]:
    longest = generator.choice((2, 5, 30))
    pieces = []
    while text:
        length = generator.randrange(longest + 1)
        pieces.append(text[:length])
        text = text[length:]
    return pieces


def test_the_parts_do_not_depend_on_how_the_text_is_cut():
    generator = random.Random(7)
    kinds = set()
    for _ in range(1500):
        text = make_answer(generator)
        parts = parse(text)
        kinds.update(type(part) for part in parts)
        for _ in range(3):
            assert parse_pieces(cut(text, generator)) == parts, text
    assert len(kinds) == 5


def test_an_answer_without_a_whole_call_loses_nothing_but_whitespace():
    generator = random.Random(8)
    num_failed = 0
    for _ in range(3000):
        text = make_answer(generator)
        parts = parse_pieces([text])
        if any(isinstance(part, ToolCallEnd) for part in parts):
            continue
        num_failed += sum(isinstance(part, ToolCallFailed) for part in parts)
        kept = "".join(
            part.text if isinstance(part, ContentText) else part.raw
            for part in parts
            if isinstance(part, ContentText | ToolCallFailed)
        )
        assert "".join(kept.split()) == "".join(text.split())
    assert num_failed > 100


def test_the_arguments_of_a_whole_call_are_an_object():
    generator = random.Random(9)
    num_calls = 0
    for _ in range(1500):
        parts = parse_pieces([make_answer(generator)])
        for before, part in pairwise(parts):
            if isinstance(part, ToolCallEnd):
                assert isinstance(before, ToolCallArguments)
                assert isinstance(json.loads(before.text), dict)
                num_calls += 1
    assert num_calls > 500


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '<tool_call>{"name": "f", "arguments": {"a": "' + "x\\n" * 67_000 + '"}}</tool_call>',
            call_parts('{"a": "' + "x\\n" * 67_000 + '"}'),
        ),
        (
            '<tool_call>{"arguments": {"a": "' + "x" * 200_000 + '"}, "name": "f"}</tool_call>',
            call_parts('{"a": "' + "x" * 200_000 + '"}'),
        ),
        ("\n" * 200_000 + CALL, call_parts(ARGUMENTS)),
        ("<" * 200_000, [ContentText("<" * 200_000)]),
        ("<tool_call>" * 20_000, [ContentText("<tool_call>" * 20_000)]),
        (
            CALL.removesuffix("</tool_call>") + "\n" * 200_000,
            call_parts(ARGUMENTS),
        ),
    ],
    ids=["arguments", "late name", "line breaks", "angle brackets", "tags", "no end"],
)
def test_long_answers_are_read_in_single_characters(text, expected):
    assert parse(text) == expected
