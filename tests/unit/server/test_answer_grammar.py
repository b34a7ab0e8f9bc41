"""What the answer must look like: which grammar a request gets, and what xgrammar makes of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import xgrammar
from transformers import AutoTokenizer

from server.errors import InvalidRequest
from server.grammar.answer_grammar import find_grammar
from server.grammar.output_grammar import OutputGrammar
from tests.fake_backend import make_body, parse_chat

Accepts = Callable[[OutputGrammar | None, str], bool]

SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
CLOSED = {**SCHEMA, "additionalProperties": False}
JSON_OBJECT = {"response_format": {"type": "json_object"}}
JSON_SCHEMA = {
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": CLOSED}}
}
YES_NO = {"guided_choice": ["yes", "no"]}


def make_tool(name: str, *, strict: bool | None = None) -> dict[str, Any]:
    function = {"name": name, "parameters": CLOSED, "strict": strict}
    return {"type": "function", "function": function}


def make_call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


TOOLS = {"tools": [make_tool("look"), make_tool("go")]}
STRICT = {"tools": [make_tool("look", strict=True), make_tool("go")]}
REQUIRED = {**TOOLS, "tool_choice": "required"}
NAMED = {**TOOLS, "tool_choice": {"type": "function", "function": {"name": "go"}}}
LOOK, GO = make_call("look", '{"x": 1}'), make_call("go", '{"x": 2}')


def find(**fields: Any) -> OutputGrammar | None:
    return find_grammar(parse_chat(orjson.dumps(make_body(**fields))))


def refuse(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        find(**fields)
    return caught.value


@pytest.fixture(scope="module")
def accepts(instruct_checkpoint: Path) -> Accepts:
    """Whether a model that is held to a grammar can write a text, and end then."""
    tokenizer = AutoTokenizer.from_pretrained(instruct_checkpoint)
    config = json.loads((instruct_checkpoint / "config.json").read_text())
    info = xgrammar.TokenizerInfo.from_huggingface(
        tokenizer, vocab_size=config["text_config"]["vocab_size"]
    )
    compiler = xgrammar.GrammarCompiler(info, max_threads=1)

    def accepts(grammar: OutputGrammar | None, text: str) -> bool:
        assert grammar is not None
        compiled = compiler.compile_structural_tag(grammar.structural_tag)
        matcher = xgrammar.GrammarMatcher(compiled)
        return matcher.accept_string(text) and matcher.accept_token(tokenizer.eos_token_id)

    return accepts


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"response_format": {"type": "text"}},
        {"structured_outputs": {}},
        {"structured_outputs": {"json_object": False}},
        TOOLS,
        {**TOOLS, "tool_choice": "auto"},
        {**STRICT, "tool_choice": "none"},
        {"tool_choice": "auto"},
    ],
)
def test_an_answer_of_which_nothing_is_said_is_free(fields: dict[str, Any]) -> None:
    assert find(**fields) is None


@pytest.mark.parametrize(
    ("name", "value", "right", "wrong"),
    [
        ("json", CLOSED, '{"x": 1}', '{"y": 1}'),
        ("json", json.dumps(CLOSED), '{"x": 1}', '{"y": 1}'),
        ("regex", "[ab]{2}", "ab", "abc"),
        ("choice", ["yes", "no"], "no", "nope"),
        ("grammar", 'root ::= "a" | "b" "c"', "bc", "ac"),
    ],
)
def test_a_format_has_an_old_and_a_new_name(
    name: str, value: object, right: str, wrong: str, accepts: Accepts
) -> None:
    old = find(**{f"guided_{name}": value})
    new = find(structured_outputs={name: value})
    for grammar in (old, new):
        assert accepts(grammar, right) and not accepts(grammar, wrong)
    assert old and new
    assert (old.param, new.param) == (f"guided_{name}", f"structured_outputs.{name}")


@pytest.mark.parametrize(
    ("fields", "param", "right", "wrong"),
    [
        (JSON_OBJECT, "response_format", '{"a": [1, null]}', "[1]"),
        (JSON_SCHEMA, "response_format.json_schema.schema", '{"x": 1}', '{"x": "1"}'),
    ],
)
def test_a_response_format_is_a_grammar(
    fields: dict[str, Any], param: str, right: str, wrong: str, accepts: Accepts
) -> None:
    grammar = find(**fields)
    assert accepts(grammar, right) and not accepts(grammar, wrong)
    assert grammar is not None and grammar.param == param


def test_a_schema_that_is_not_given_is_any_object(accepts: Accepts) -> None:
    named = {"type": "json_schema", "json_schema": {"name": "n"}}
    grammar = find(response_format=named)
    assert accepts(grammar, '{"a": 1}') and not accepts(grammar, "1")
    grammar = find(structured_outputs={"json_object": True})
    assert accepts(grammar, "{}") and not accepts(grammar, "[]")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({**JSON_OBJECT, **YES_NO}, "guided_choice"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice"),
        ({"guided_regex": "a", "guided_json": {}}, "guided_regex"),
        ({**REQUIRED, **JSON_OBJECT}, "response_format"),
        ({**NAMED, **YES_NO}, "guided_choice"),
        ({"tool_choice": "required"}, "tools"),
        ({"tools": [], "tool_choice": NAMED["tool_choice"]}, "tools"),
        (
            {"tools": [make_tool("look")], "tool_choice": NAMED["tool_choice"]},
            "tool_choice.function.name",
        ),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": "[1]"}, "guided_json"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any], param: str) -> None:
    assert refuse(**fields).param == param


def test_a_required_call_is_of_any_tool_and_after_its_schema(accepts: Accepts) -> None:
    grammar = find(**REQUIRED)
    for right in (LOOK, GO, f"{LOOK}\n{GO}"):
        assert accepts(grammar, right)
    for wrong in ("", "text", make_call("look", '{"y": 1}'), make_call("run", "{}"), f"{LOOK} "):
        assert not accepts(grammar, wrong)
    assert grammar is not None and grammar.param == "tools"


@pytest.mark.parametrize("fields", [NAMED, {**NAMED, **STRICT}])
def test_a_named_call_is_the_only_one(fields: dict[str, Any], accepts: Accepts) -> None:
    grammar = find(**fields)
    assert accepts(grammar, GO)
    assert not accepts(grammar, LOOK) and not accepts(grammar, f"{GO}\n{GO}")


def test_calls_may_have_to_come_alone(accepts: Accepts) -> None:
    grammar = find(**REQUIRED, parallel_tool_calls=False)
    assert accepts(grammar, LOOK) and not accepts(grammar, f"{LOOK}\n{GO}")


def test_strict_tools_leave_the_text_free(accepts: Accepts) -> None:
    grammar = find(**STRICT)
    lax = make_call("go", '{"anything": 1}')
    for right in ("text < more", LOOK, f"text\n{LOOK}", lax):
        assert accepts(grammar, right)
    assert not accepts(grammar, make_call("look", '{"y": 1}'))


@pytest.mark.parametrize("formatted", [JSON_SCHEMA, YES_NO, {"guided_json": CLOSED}])
@pytest.mark.parametrize("parallel", [True, False])
def test_with_tools_and_a_format_the_answer_is_calls_or_has_the_format(
    formatted: dict[str, Any], parallel: bool, accepts: Accepts
) -> None:
    grammar = find(**TOOLS, **formatted, parallel_tool_calls=parallel)
    answer = "yes" if formatted is YES_NO else '{"x": 1}'
    assert accepts(grammar, answer) and accepts(grammar, LOOK)
    assert accepts(grammar, f"{LOOK}\n{GO}") is parallel
    for wrong in ("text", f"{answer}{LOOK}", f"{LOOK}{answer}", make_call("look", '{"y": 1}')):
        assert not accepts(grammar, wrong)


def test_with_tools_and_a_format_any_object_is_still_any_object(accepts: Accepts) -> None:
    grammar = find(**TOOLS, **JSON_OBJECT)
    assert accepts(grammar, '{"a": 1}') and accepts(grammar, GO)
    assert not accepts(grammar, "text")


def test_a_shortest_length_and_a_grammar_exclude_each_other():
    """The grammar may allow nothing but the end where the length forbids it."""
    body = orjson.dumps(make_body(guided_choice=["a"], min_tokens=3))
    with pytest.raises(InvalidRequest, match="guided_choice") as caught:
        find_grammar(parse_chat(body))
    assert caught.value.param == "min_tokens"
