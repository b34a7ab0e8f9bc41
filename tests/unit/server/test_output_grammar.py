"""What the grammars allow, read off xgrammar's matcher with the demo checkpoint's vocabulary."""

import json
from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
import xgrammar as xgr
from pydantic import BaseModel, ConfigDict, Field, HttpUrl
from transformers import AutoTokenizer

from demo.embedded import EMBEDDED_CHECKPOINT
from server.errors import InvalidRequest
from server.grammar import output_grammar
from server.grammar.output_grammar import OutputGrammar
from server.grammar.tool_grammar import FunctionTool, strict_tools_format, tool_call_format

VOCAB_SIZE = 896
PARAM = "response_format"

Allows = Callable[[OutputGrammar, str], bool]


@pytest.fixture(scope="module")
def compiler() -> xgr.GrammarCompiler:
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_CHECKPOINT)
    return xgr.GrammarCompiler(
        xgr.TokenizerInfo.from_huggingface(tokenizer, vocab_size=VOCAB_SIZE), max_threads=1
    )


@pytest.fixture
def allows(compiler: xgr.GrammarCompiler) -> Allows:
    def allows(grammar: OutputGrammar, text: str) -> bool:
        """Whether the whole text is an answer."""
        compiled = compiler.compile_structural_tag(grammar.structural_tag)
        matcher = xgr.GrammarMatcher(compiled, terminate_without_stop_token=True)
        return bool(matcher.accept_string(text) and matcher.is_completed())

    return allows


def from_schema(schema: Mapping[str, Any] | bool) -> OutputGrammar:
    return output_grammar.json_schema(schema, PARAM)


def restated(schema: Mapping[str, Any]) -> Any:
    return json.loads(from_schema(schema).structural_tag)["format"]["json_schema"]


# Plain texts.


def test_a_json_object_stands_alone(allows: Allows) -> None:
    grammar = output_grammar.json_object(PARAM)
    assert grammar.param == PARAM
    for text in ("{}", '{"a": 1}', '{"a":[1,{"b":null}],"c":"d\\"e\\nf"}', '{\n"a": 1}'):
        assert allows(grammar, text), text
    for text in ("", "[]", "1", ' {"a": 1}', '{"a": 1} ', '{"a": 1}.', "```json\n{}", '{"a": 1'):
        assert not allows(grammar, text), text


def test_whitespace_cannot_run_away(allows: Allows) -> None:
    grammar = output_grammar.json_object(PARAM)
    for text in ('{  "a": 1}', '{"a":  1}', '{"a": 1,\n\n"b": 2}', '{"a": [\t\t]}'):
        assert not allows(grammar, text), text


def test_a_regex_matches_as_a_whole(allows: Allows) -> None:
    grammar = output_grammar.regex(r"\d{4}-\d{2}", PARAM)
    assert allows(grammar, "2024-07")
    for text in ("2024-7", "2024-07-01", " 2024-07", ""):
        assert not allows(grammar, text), text


@pytest.mark.parametrize(
    "options",
    [
        ["yes", "no"],
        ["a", "ab", "abc"],
        ["a", "a"],
        ['say "hi"', "back\\slash", "two\nlines", "tab\t", "[a-z]*", "a|b", "(", "é😀", "\x01"],
        ["::=", 'root ::= "x"', "<|im_start|>"],
    ],
)
def test_a_choice_is_one_of_its_options(allows: Allows, options: list[str]) -> None:
    grammar = output_grammar.choice(options, PARAM)
    for option in options:
        assert allows(grammar, option), option
    for text in ("", "zz", options[0] + "!", " " + options[0], options[0] + options[-1] + "x"):
        assert not allows(grammar, text), text


def test_ebnf_starts_at_root(allows: Allows) -> None:
    grammar = output_grammar.ebnf('root ::= "(" root ")" | number\nnumber ::= [0-9]+', PARAM)
    assert allows(grammar, "((12))")
    assert not allows(grammar, "((12)")


# Schemas.


class Kind(StrEnum):
    INVOICE = "invoice"
    RECEIPT = "receipt"


class Line(BaseModel):
    model_config = ConfigDict(extra="forbid")
    text: str = Field(min_length=1, description="what was sold")
    amount: float = Field(ge=0)
    count: int = Field(default=1, ge=1, le=99)


class Card(BaseModel):
    method: Literal["card"]
    last_digits: str = Field(pattern=r"^\d{4}$")


class Cash(BaseModel):
    method: Literal["cash"]


class Invoice(BaseModel):
    kind: Kind
    number: str = Field(max_length=20)
    day: date
    seen: datetime | None = None
    customer: UUID
    page: HttpUrl | None
    lines: list[Line] = Field(min_length=1, max_length=3)
    total: Decimal
    corner: tuple[int, int]
    extra: dict[str, int]
    paid: Annotated[Card | Cash, Field(discriminator="method")]
    either: Card | Cash
    version: Literal[1, 2] = 1


class Part(BaseModel):
    name: str
    parts: list["Part"] = []


INVOICE = {
    "kind": "invoice",
    "number": "A-17",
    "day": "2024-02-29",
    "seen": "2024-02-29T12:00:00Z",
    "customer": "123e4567-e89b-42d3-a456-426614174000",
    "page": "https://example.com/a",
    "lines": [{"text": "tea", "amount": 2.5, "count": 2}],
    "total": "5.00",
    "corner": [1, -2],
    "extra": {"a": 1},
    "paid": {"method": "card", "last_digits": "1234"},
    "either": {"method": "cash"},
    "version": 2,
}


def test_a_model_of_pydantic_allows_its_instances(allows: Allows) -> None:
    grammar = from_schema(Invoice.model_json_schema())
    Invoice.model_validate(INVOICE)
    assert allows(grammar, json.dumps(INVOICE))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "letter"),
        ("number", "x" * 21),
        ("number", "a\tb"),
        ("day", "yesterday"),
        ("seen", 5),
        ("customer", "me"),
        ("lines", []),
        ("lines", [{"text": "tea", "amount": 1}] * 4),
        ("lines", [{"text": "", "amount": 1}]),
        ("lines", [{"text": "tea", "amount": -1}]),
        ("lines", [{"text": "tea", "amount": 1, "count": 100}]),
        ("lines", [{"text": "tea", "amount": 1, "note": ""}]),
        ("corner", [1]),
        ("extra", {"a": "b"}),
        ("paid", {"method": "card", "last_digits": "12345"}),
        ("paid", {"method": "cheque"}),
        ("version", 3),
        ("more", 1),
    ],
)
def test_a_model_of_pydantic_allows_nothing_else(allows: Allows, field: str, value: Any) -> None:
    text = json.dumps({**INVOICE, field: value}, ensure_ascii=False).replace("\\t", "\t")
    assert not allows(from_schema(Invoice.model_json_schema()), text)


def test_nothing_of_a_model_of_pydantic_is_passed_over(
    compiler: xgr.GrammarCompiler, capfd: pytest.CaptureFixture[str]
) -> None:
    compiler.compile_structural_tag(from_schema(Invoice.model_json_schema()).structural_tag)
    assert "Warning" not in capfd.readouterr().err


def test_a_schema_may_refer_to_itself(allows: Allows) -> None:
    grammar = from_schema(Part.model_json_schema())
    assert allows(grammar, '{"name": "a", "parts": [{"name": "b", "parts": [{"name": "c"}]}]}')
    assert not allows(grammar, '{"name": "a", "parts": [{"title": "b"}]}')


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "array", "maxItems": 2}, '[1, "a"]'),
        ({"type": "array", "minItems": 1}, "[{}]"),
        ({"type": ["array", "null"]}, "[1]"),
        ({"type": "object", "$id": "x"}, '{"a": 1}'),
        ({"type": "object", "minProperties": 1}, '{"a": 1}'),
        ({"type": "object", "$defs": {}, "x-note": 1}, '{"a": {"b": []}}'),
        ({"type": "object", "properties": {"a": {"type": "array", "title": "A"}}}, '{"a": [1]}'),
    ],
)
def test_what_a_schema_leaves_open_is_open(
    allows: Allows, schema: dict[str, Any], text: str
) -> None:
    assert allows(from_schema(schema), text)


@pytest.mark.parametrize(
    ("lengths", "allowed", "refused"),
    [
        ({"minLength": 2}, ["ab", "é" * 300], ["", "a"]),
        ({"maxLength": 2}, ["", "ab", "😀😀"], ["abc"]),
        ({"minLength": 1, "maxLength": 128}, ["a", "a" * 128], ["", "a" * 129]),
        ({"maxLength": 200}, ["a" * 200], ["a" * 201]),
    ],
)
def test_lengths_count_characters(
    allows: Allows, lengths: dict[str, int], allowed: list[str], refused: list[str]
) -> None:
    for schema in (
        {"type": "string", **lengths},
        {"type": ["string", "null"], **lengths},
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": "string", **lengths}}},
    ):
        grammar = from_schema(schema)
        assert all(allows(grammar, f'"{text}"') for text in allowed)
        assert not any(allows(grammar, f'"{text}"') for text in refused)


@pytest.mark.parametrize("control", ["\t", "\x01", "\n", '"', "\\"])
def test_a_string_of_bounded_length_is_a_json_string(allows: Allows, control: str) -> None:
    for lengths in ({"minLength": 1}, {"maxLength": 50}):
        assert not allows(from_schema({"type": "string", **lengths}), f'"a{control}b"')


def test_lengths_of_property_names_count(allows: Allows) -> None:
    grammar = from_schema(
        {
            "type": "object",
            "propertyNames": {"maxLength": 2},
            "additionalProperties": {"type": "integer"},
        }
    )
    assert allows(grammar, '{"ab": 1}')
    assert not allows(grammar, '{"abc": 1}')
    assert not allows(grammar, '{"a\t": 1}')


def test_a_decimal_of_pydantic_is_a_number(allows: Allows) -> None:
    schema = {"type": "string", "pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"}
    grammar = from_schema(schema)
    for text in ("12", "-0012.50", "+.5", "3."):
        assert allows(grammar, f'"{text}"'), text
    for text in ("", "-", ".", "+.", "1.2.3", "a"):
        assert not allows(grammar, f'"{text}"'), text


def test_one_of_objects_told_apart_by_a_constant_are_alternatives() -> None:
    def option(value: str) -> dict[str, Any]:
        return {"type": "object", "properties": {"k": {"const": value}}, "required": ["k"]}

    defs = {"a": option("x"), "b": option("y")}
    refs = [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]
    assert restated({"oneOf": refs, "$defs": defs})["anyOf"] == refs
    same = {"a": option("x"), "b": option("x")}
    assert "anyOf" not in restated({"oneOf": refs, "$defs": same})
    free = {"a": option("x"), "b": {"type": "object", "properties": {}}}
    assert "anyOf" not in restated({"oneOf": refs, "$defs": free})


def test_restating_twice_changes_nothing_more() -> None:
    once = restated(Invoice.model_json_schema())
    assert restated(once) == once


# Formats of other files.


def tool(schema: Mapping[str, Any], *, strict: bool = True) -> FunctionTool:
    return FunctionTool("f", schema, strict)


def test_a_forced_call_has_arguments_after_the_schema(allows: Allows) -> None:
    schema = {"properties": {"city": {"type": "string"}}, "required": ["city"]}
    grammar = output_grammar.from_format(tool_call_format([tool(schema)], True), "tools")

    def call(arguments: str) -> str:
        return f'<tool_call>\n{{"name": "f", "arguments": {arguments}}}\n</tool_call>'

    assert allows(grammar, call('{"city": "Oslo"}'))
    assert not allows(grammar, call("{}"))
    assert not allows(grammar, "Hello. " + call('{"city": "Oslo"}'))


@pytest.mark.parametrize("make", [tool_call_format, strict_tools_format])
def test_schemas_inside_a_format_are_checked(make: Callable[..., Any]) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    with pytest.raises(InvalidRequest, match="`tools`: `uniqueItems` is not supported") as caught:
        output_grammar.from_format(make([tool(schema)], True), "tools")
    assert caught.value.param == "tools"


def test_all_schemas_of_a_request_together_are_bounded() -> None:
    schema = {"type": "object", "description": "x" * 60_000}
    with pytest.raises(InvalidRequest, match="all schemas together"):
        output_grammar.from_format(tool_call_format([tool(schema)] * 10, True), "tools")
