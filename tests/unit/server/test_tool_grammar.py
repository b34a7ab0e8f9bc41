"""The grammars, held against xgrammar with the demo checkpoint's tokenizer."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import xgrammar
from transformers import AutoTokenizer

from server.grammar.tool_grammar import FunctionTool, strict_tools_format, tool_call_format

CHECKPOINT = Path(__file__).parents[3] / "demo" / "checkpoint"
WEATHER_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = FunctionTool("get_weather", WEATHER_SCHEMA, strict=True)
LAX_WEATHER = FunctionTool("get_weather", WEATHER_SCHEMA, strict=False)
SEARCH = FunctionTool("search", {}, strict=False)
TOOLS = [WEATHER, SEARCH]


class Grammars:
    """Compiles formats, and tells what a model that is held to them can write."""

    def __init__(self) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
        config = json.loads((CHECKPOINT / "config.json").read_text())
        self._vocab_size = config["text_config"]["vocab_size"]
        info = xgrammar.TokenizerInfo.from_huggingface(self._tokenizer, vocab_size=self._vocab_size)
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=1)

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)

    def accepts(self, format_: dict[str, Any], text: str) -> bool:
        """Whether the text is a whole answer, as the tokenizer cuts it and in single characters."""
        whole = self.accepts_tokens(format_, self.encode(text))
        characters = [token for character in text for token in self.encode(character)]
        assert self.accepts_tokens(format_, characters) == whole
        return whole

    def accepts_tokens(self, format_: dict[str, Any], tokens: list[int]) -> bool:
        """Whether the mask of allowed tokens has each of these, and the end of the answer then."""
        structural_tag = {"type": "structural_tag", "format": format_}
        compiled = self._compiler.compile_structural_tag(json.dumps(structural_tag))
        matcher = xgrammar.GrammarMatcher(compiled)
        mask = xgrammar.allocate_token_bitmask(1, self._vocab_size)
        for token in [*tokens, self._tokenizer.eos_token_id]:
            matcher.fill_next_token_bitmask(mask)
            is_allowed = has_bit(mask, token)
            assert matcher.accept_token(token) == is_allowed
            if not is_allowed:
                return False
        return True


def has_bit(mask: torch.Tensor, token: int) -> bool:
    return bool(int(mask[0, token // 32]) >> token % 32 & 1)


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars()


def make_call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


PARIS = make_call("get_weather", '{"city": "Paris", "days": 3}')
ANY_SEARCH = make_call("search", '{"q": ["a", {"b": null}], "n": 1.5}')
NOT_AFTER_THE_SCHEMA = [
    make_call("get_weather", '{"city": 4}'),
    make_call("get_weather", '{"city": "Paris", "days": "3"}'),
    make_call("get_weather", '{"city": "Paris", "country": "France"}'),
    make_call("get_weather", "{}"),
]
NO_CALLS = [
    make_call("get_weathers", '{"city": "Paris"}'),
    make_call("f", "{}"),
    make_call("search", "[]"),
    make_call("search", "null"),
    make_call("search", '"{}"'),
    make_call("search", '{"a": tru}'),
    "<tool_call> </tool_call>",
    '<tool_call>{"name": "search", "arguments": {}}</tool_call>',
    '<tool_call>\n{"arguments": {}, "name": "search"}\n</tool_call>',
    PARIS.removesuffix("\n</tool_call>"),
]


def test_the_tags_are_single_tokens(grammars):
    """So the tests below show that xgrammar takes these tokens for their text."""
    tokens = grammars.encode(PARIS)
    assert [len(grammars.encode(tag)) for tag in ("<tool_call>", "</tool_call>")] == [1, 1]
    assert tokens[:1] + tokens[-1:] == grammars.encode("<tool_call></tool_call>")


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize(
    "text",
    [
        PARIS,
        ANY_SEARCH,
        make_call("search", "{}"),
        make_call("get_weather", '{"city": "</tool_call> Malm\\u00f6 \\"é\\""}'),
    ],
)
def test_a_forced_answer_is_a_call(grammars, text, parallel):
    assert grammars.accepts(tool_call_format(TOOLS, parallel), text)


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "Hello.",
        f"Hello.\n{PARIS}",
        f"\n{PARIS}",
        f"{PARIS}\n",
        f"{PARIS} Done.",
        f"{PARIS}{PARIS}",
        *NO_CALLS,
        *NOT_AFTER_THE_SCHEMA,
    ],
)
def test_a_forced_answer_is_nothing_but_calls_after_their_schemas(grammars, text, parallel):
    assert not grammars.accepts(tool_call_format(TOOLS, parallel), text)


def test_a_forced_answer_has_several_calls_only_if_parallel(grammars):
    text = f"{PARIS}\n{ANY_SEARCH}\n{PARIS}"
    assert grammars.accepts(tool_call_format(TOOLS, True), text)
    assert not grammars.accepts(tool_call_format(TOOLS, False), text)


def test_a_named_choice_excludes_the_other_tools(grammars):
    assert grammars.accepts(tool_call_format([WEATHER], False), PARIS)
    assert not grammars.accepts(tool_call_format([WEATHER], False), ANY_SEARCH)


@pytest.mark.parametrize("text", NOT_AFTER_THE_SCHEMA)
def test_a_forced_call_of_a_lax_tool_follows_its_schema_too(grammars, text):
    assert not grammars.accepts(tool_call_format([LAX_WEATHER], True), text)


@pytest.mark.parametrize("arguments", ['{"city":"Paris","days":3}', '{ "city": "Paris" }'])
def test_json_may_be_written_with_and_without_spaces(grammars, arguments):
    assert grammars.accepts(tool_call_format(TOOLS, True), make_call("get_weather", arguments))


@pytest.mark.parametrize(
    "arguments", ['{"city":  "Paris"}', '{"city": "Paris" \n}', '{\n "city": "Paris"}']
)
def test_whitespace_cannot_go_on(grammars, arguments):
    assert not grammars.accepts(tool_call_format(TOOLS, True), make_call("get_weather", arguments))


def test_no_strict_tool_needs_no_grammar():
    assert strict_tools_format([LAX_WEATHER, SEARCH], True) is None
    assert strict_tools_format([], True) is None


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "Hello.\n\nBye <tool_cal <b> </tool_call>",
        PARIS,
        ANY_SEARCH,
        f"Let me see. {PARIS}",
        f"\n\n{ANY_SEARCH}",
    ],
)
def test_an_answer_with_strict_tools_is_text_or_a_call_or_both(grammars, text, parallel):
    assert grammars.accepts(strict_tools_format(TOOLS, parallel), text)


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("text", [*NO_CALLS, *NOT_AFTER_THE_SCHEMA, "<tool_call>"])
def test_an_opening_tag_must_begin_a_call_with_strict_tools(grammars, text, parallel):
    format_ = strict_tools_format(TOOLS, parallel)
    assert not grammars.accepts(format_, text)
    assert not grammars.accepts(format_, f"Let me see.\n{text}")


@pytest.mark.parametrize("between", ["\n", "", "\nAnd then\n"])
def test_text_goes_on_after_a_call_of_strict_tools_if_parallel(grammars, between):
    text = f"{PARIS}{between}{ANY_SEARCH}"
    assert grammars.accepts(strict_tools_format(TOOLS, True), f"{text}\nDone.")
    assert not grammars.accepts(strict_tools_format(TOOLS, True), f"{text}\n<tool_call>\n")
    assert not grammars.accepts(strict_tools_format(TOOLS, False), text)


def test_a_lax_tool_beside_a_strict_one_takes_any_object(grammars):
    tools = [FunctionTool("f", WEATHER_SCHEMA, strict=True), LAX_WEATHER]
    format_ = strict_tools_format(tools, True)
    assert grammars.accepts(format_, make_call("get_weather", '{"town": 4}'))
    assert not grammars.accepts(format_, make_call("get_weather", "4"))
    assert not grammars.accepts(format_, make_call("f", '{"town": 4}'))


def test_each_tool_has_definitions_of_its_own(grammars):
    schemas = [
        {
            "type": "object",
            "properties": {"at": {"$ref": "#/$defs/point"}},
            "required": ["at"],
            "$defs": {
                "point": {
                    "type": "object",
                    "properties": {"x": {"type": kind}, "next": {"$ref": "#/$defs/point"}},
                    "required": ["x"],
                }
            },
        }
        for kind in ("integer", "boolean")
    ]
    tools = [
        FunctionTool(name, schema, strict=True) for name, schema in zip("fg", schemas, strict=True)
    ]
    nested = {"f": '{"at": {"x": 1, "next": {"x": 2}}}', "g": '{"at": {"x": true}}'}
    for format_ in (tool_call_format(tools, True), strict_tools_format(tools, True)):
        assert format_ is not None
        for name, other in ("fg", "gf"):
            assert grammars.accepts(format_, make_call(name, nested[name]))
            assert not grammars.accepts(format_, make_call(name, nested[other]))


def test_a_schema_without_a_type_is_of_an_object(grammars):
    format_ = tool_call_format([FunctionTool("f", {"description": "Any."}, strict=True)], True)
    assert grammars.accepts(format_, make_call("f", '{"a": 1}'))
    assert not grammars.accepts(format_, make_call("f", "1"))
