import re
from collections.abc import Callable
from typing import Any

import pytest

from server.errors import InvalidRequest
from server.grammar.limits import (
    MAX_BOUND,
    MAX_CHOICE_BYTES,
    MAX_CHOICES,
    MAX_EBNF_BYTES,
    MAX_ENUM_VALUES,
    MAX_NESTING,
    MAX_OPTIONAL,
    MAX_PATTERN_REPEAT,
    MAX_REGEX_CHARS,
    MAX_REGEX_SIZE,
    MAX_SCHEMA_BYTES,
    MAX_SCHEMAS,
    check_choice,
    check_ebnf,
    check_regex,
    check_schema,
)

PARAM = "response_format"


def assert_refused(
    check: Callable[..., None], value: Any, message: str, code: str = "invalid_grammar"
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check(value, PARAM)
    assert message in caught.value.message
    assert caught.value.message.startswith(f"`{PARAM}`")
    assert len(caught.value.message) < 400
    assert (caught.value.code, caught.value.param) == (code, PARAM)


def nest(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels - 1):
        schema = {"items": schema}
    return schema


def optional(count: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{number}": {} for number in range(count)}}


@pytest.mark.parametrize(
    ("largest", "too_large", "message"),
    [
        (nest(MAX_NESTING), nest(MAX_NESTING + 1), "nest deeper than 64"),
        (
            {"title": "x" * (MAX_SCHEMA_BYTES - 12)},
            {"title": "x" * (MAX_SCHEMA_BYTES - 11)},
            "65537 bytes of the schema are more than 65536",
        ),
        (
            {"anyOf": [{}] * (MAX_SCHEMAS - 1)},
            {"anyOf": [{}] * MAX_SCHEMAS},
            "more than 2000 schemas",
        ),
        (
            {"enum": list(range(MAX_ENUM_VALUES))},
            {"anyOf": [{"enum": [1]}, {"enum": list(range(MAX_ENUM_VALUES))}]},
            "more than 5000 `enum` values",
        ),
        (optional(MAX_OPTIONAL), optional(MAX_OPTIONAL + 1), "257 optional properties"),
        (
            {"type": "array", "maxItems": MAX_BOUND},
            {"type": "array", "maxItems": MAX_BOUND + 1},
            "`maxItems` must be between 0 and 100000",
        ),
        (
            {"type": "string", "pattern": f"a{{{MAX_PATTERN_REPEAT}}}"},
            {"type": "string", "pattern": f"a{{1,{MAX_PATTERN_REPEAT + 1}}}"},
            "a repetition of more than 128",
        ),
    ],
)
def test_sizes_of_schemas_are_bounded(largest: Any, too_large: Any, message: str) -> None:
    check_schema(largest, PARAM)
    assert_refused(check_schema, too_large, message)


def test_nesting_far_beyond_the_limit_is_no_recursion() -> None:
    assert_refused(check_schema, nest(900), "nest deeper")


def test_required_properties_are_not_optional() -> None:
    schema = optional(MAX_OPTIONAL + 50)
    check_schema(schema | {"required": list(schema["properties"])}, PARAM)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"not": {}}, "`not`"),
        ({"if": {}, "then": {}}, "`if`"),
        ({"type": "object", "dependentRequired": {}}, "`dependentRequired`"),
        ({"type": "array", "contains": {}}, "`contains`"),
        ({"type": "array", "uniqueItems": True}, "`uniqueItems`"),
        ({"$dynamicRef": "#a"}, "`$dynamicRef`"),
        ({"allOf": [{"type": "string"}, {"minLength": 1}]}, "`allOf` with more than one"),
        (
            {"type": "object", "patternProperties": {"^a$": {}, "^b$": {}}},
            "`patternProperties` with more than one",
        ),
        (
            {"type": "object", "properties": {}, "patternProperties": {"^b$": {}}},
            "`properties` beside `patternProperties`",
        ),
        (
            {"type": "object", "properties": {}, "propertyNames": {"pattern": "^b$"}},
            "`properties` beside `propertyNames`",
        ),
        ({"type": "string", "pattern": "^2", "format": "date"}, "`pattern` beside `format`"),
        ({"type": "string", "format": "json-pointer"}, "this `format`"),
        ({"type": "string", "format": "made-up"}, "this `format`"),
        ({"$ref": "#", "minimum": 1}, "`minimum` beside `$ref`"),
        ({"anyOf": [{}], "properties": {}}, "`properties` beside `anyOf`"),
        ({"anyOf": [{}], "oneOf": [{}]}, "`oneOf` beside `anyOf`"),
        ({"enum": ["a"], "minLength": 1}, "`minLength` beside `enum`"),
        ({"type": "integer", "enum": [1, "a"]}, "`type` beside `enum`"),
        ({"type": "integer", "const": 1.5}, "`type` beside `const`"),
        ({"type": "object", "anyOf": [{"type": "string"}]}, "`type` beside `anyOf`"),
        ({"minimum": 1}, "`minimum` without `type`"),
        ({"required": ["a"]}, "`required` without `type`"),
        ({"type": "object", "required": ["a"]}, "a name in `required`"),
        ({"type": "string", "pattern": 'a"b'}, "a quote, backslash or control character"),
        ({"type": "string", "pattern": r"a\\b"}, "a quote, backslash or control character"),
        ({"type": "string", "pattern": r"a\nb"}, "a quote, backslash or control character"),
        ({"type": "string", "pattern": r"\x22"}, "a quote, backslash or control character"),
        ({"type": "string", "pattern": r"\u005c"}, "a quote, backslash or control character"),
        ({"type": "object", "patternProperties": {'"': {}}}, "a quote, backslash"),
    ],
)
def test_what_the_compiler_passes_over_is_refused_by_name(
    schema: dict[str, Any], message: str
) -> None:
    assert_refused(check_schema, schema, message, "unsupported_grammar")
    inside = {"type": "object", "properties": {"a": {"type": "array", "items": schema}}}
    inside = inside if "#" not in str(schema) else schema
    assert_refused(check_schema, inside, message, "unsupported_grammar")


def test_the_place_of_a_fault_is_named() -> None:
    schema = {"$defs": {"a": {"anyOf": [{}, {"type": "object", "properties": {"b": {"not": {}}}}]}}}
    assert_refused(
        check_schema,
        schema,
        "`not` is not supported (at `$defs.a.anyOf[1].properties.b`)",
        "unsupported_grammar",
    )


def test_a_long_place_is_cut() -> None:
    schema: dict[str, Any] = {"not": {}}
    for _ in range(20):
        schema = {"type": "object", "properties": {"x" * 1000: schema}}
    assert_refused(check_schema, schema, "`not` is not supported", "unsupported_grammar")


@pytest.mark.parametrize(
    "uri",
    [
        "https://example.com/schema",
        "file:///etc/passwd",
        "other.json#/a",
        "#a",
        "#/",
        "#/$defs/missing",
        "#/$defs/a~1b",
        "#/$defs/a%20b",
        "#/$defs",
        "#/$defs/a/default",
        "#/anyOf/0",
        "",
        5,
        None,
        [],
        {},
    ],
)
def test_a_reference_must_be_to_a_schema_of_the_same_document(uri: object) -> None:
    defs: dict[str, Any] = {"a": {"default": {}}, "a/b": {}, "a b": {}}
    schema = {"anyOf": [{}, {"$ref": uri}], "$defs": defs}
    assert_refused(check_schema, schema, "`$ref` must name a schema of the same document")


@pytest.mark.parametrize("uri", ["#", "#/$defs/a", "#/$defs/a b", "#/properties/a"])
def test_references_within_the_document_are_followed(uri: str) -> None:
    check_schema(
        {
            "properties": {"a": {}, "b": {"$ref": uri, "description": "text"}},
            "$defs": {"a": {}, "a b": {}},
        },
        PARAM,
    )


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "strin"},
        {"type": []},
        {"type": ["string", 3]},
        {"type": {}},
        {"type": 5},
        {"properties": []},
        {"properties": {"a": 5}},
        {"items": 5},
        {"items": [{}]},
        {"type": "array", "prefixItems": {}},
        {"type": "array", "prefixItems": 5},
        {"additionalProperties": "no"},
        {"$defs": 5},
        {"anyOf": []},
        {"anyOf": {}},
        {"anyOf": [5]},
        {"oneOf": 5},
        {"allOf": None},
        {"enum": []},
        {"enum": {"a": 1}},
        {"type": "object", "required": "a"},
        {"type": "object", "required": [5]},
        {"type": "string", "format": 5},
        {"type": "string", "pattern": 5},
        {"type": "string", "minLength": "3"},
        {"type": "string", "minLength": 2.5},
        {"type": "string", "minLength": True},
        {"type": "string", "minLength": -1},
        {"type": "object", "minProperties": 2**32},
        {"type": "object", "propertyNames": True},
        {"title": "a\0b"},
        {"type": "object", "properties": {"\0": {}}},
    ],
)
def test_what_is_not_a_schema_is_refused(schema: Any) -> None:
    assert_refused(check_schema, schema, "")


@pytest.mark.parametrize(
    "schema",
    [
        True,
        False,
        {},
        {"title": "T", "description": "D", "default": {"not": {}}, "examples": [{"if": 1}]},
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "x", "$comment": "c"},
        {"type": "object", "properties": {"not": {}, "if": {}, "$ref": {"type": "string"}}},
        {"type": "string", "default": "\\u0000", "deprecated": True, "readOnly": True},
        {"type": "integer", "minLength": 5, "format": "int32"},
        {"type": "string", "enum": ["a"]},
        {"type": ["string", "null"], "enum": ["a", None]},
        {"type": "number", "const": 1},
        {"const": {"not": 1}},
        {"type": "object", "anyOf": [{"properties": {}}, {"type": "object"}]},
        {"type": "array", "uniqueItems": False},
        {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"type": "string"}}},
        {"properties": {"a": {}}, "required": ["a"]},
        {"type": "object", "propertyNames": {"pattern": "^a+$"}},
        {"type": "string", "pattern": r'^[^"\\]{1,20}\.[\w.]+$'},
        {"type": "string", "x-note": {"anyOf": []}, "nullable": True},
        {"$ref": "#/$defs/a", "type": "object", "$defs": {"a": {"type": "object"}}},
    ],
)
def test_schemas_that_are_understood_pass(schema: Any) -> None:
    check_schema(schema, PARAM)


# Regexes.


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("", "an empty regex"),
        ("a" * (MAX_REGEX_CHARS + 1), "2049 characters of regex are more than 2048"),
        ("a\0b", "NUL"),
        (f"a{{1,{MAX_REGEX_SIZE + 1}}}", "longer than 4096 with its repetitions written"),
        ("(.{0,100}){0,100}", "longer than 4096"),
        ("((a{30}){30}){30}", "longer than 4096"),
        ("(?:[a-z]x{2}){1400}", "longer than 4096"),
        ("x{99999999999999999999}", "longer than 4096"),
        ("(((((a*)*)*)*)*)*", "more than 4 quantifiers"),
        ("((((a+)?){2})+)*", "more than 4 quantifiers"),
    ],
)
def test_sizes_of_regexes_are_bounded(pattern: str, message: str) -> None:
    assert_refused(check_regex, pattern, message)


@pytest.mark.parametrize(
    "pattern",
    [
        "a" * MAX_REGEX_CHARS,
        f"a{{{MAX_REGEX_SIZE}}}",
        "(((a*)b*)*)*",
        "(?:(?P<y>[0-9]{4})-){3}|a{2,}",
        r"\(\(\({9}\*\*\*\*\*",
        r"[*+?{9}(]*[]\]{4}",
        "a?" * 1000,
        "((((((a))))))*",
        "a{x}{,3}(",
        "[" * 500,
        ")" * 500,
    ],
)
def test_regexes_within_the_limits_pass(pattern: str) -> None:
    check_regex(pattern, PARAM)


# Choices and EBNF.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "at least one choice"),
        (["a"] * (MAX_CHOICES + 1), "2001 choices are more than 2000"),
        (["é" * (MAX_CHOICE_BYTES // 2), "a"], "65537 bytes of the choices"),
        (["a", "b\0"], "NUL"),
    ],
)
def test_choices_are_bounded(options: list[str], message: str) -> None:
    assert_refused(check_choice, options, message)


def test_choices_within_the_limits_pass() -> None:
    check_choice(["a"] * MAX_CHOICES, PARAM)
    check_choice(["é" * (MAX_CHOICE_BYTES // 2)], PARAM)
    check_choice([""], PARAM)


def test_ebnf_is_bounded() -> None:
    grammar = 'root ::= "a"\n#'
    check_ebnf(grammar.ljust(MAX_EBNF_BYTES, "x"), PARAM)
    assert_refused(check_ebnf, grammar.ljust(MAX_EBNF_BYTES + 1, "x"), "32769 bytes of the grammar")
    assert_refused(check_ebnf, 'root ::= "\0"', "NUL")


@pytest.mark.parametrize("grammar", ["", 'start: "a"', '?start: expr\nexpr: NUMBER "+" NUMBER'])
def test_lark_is_refused_by_name(grammar: str) -> None:
    assert_refused(check_ebnf, grammar, "Lark's notation is not supported", "unsupported_grammar")


def test_messages_do_not_repeat_what_clients_send() -> None:
    secret = "attack" * 10
    for schema in (
        {"type": secret},
        {"$ref": secret},
        {"type": "string", "format": secret},
        {"type": "string", "pattern": f'{secret}"'},
        {"type": "object", "required": [secret]},
    ):
        with pytest.raises(InvalidRequest) as caught:
            check_schema(schema, PARAM)
        assert not re.search("attack", caught.value.message)
