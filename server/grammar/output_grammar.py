"""What an answer must look like, as one of xgrammar's structural tags.

A tag allows nothing before or after what it describes. What is built here has passed
`server.grammar.limits`; whether it can be compiled, `server.grammar.check` knows.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from server.grammar.limits import (
    SCHEMA_LISTS,
    SCHEMA_MAPS,
    SCHEMA_VALUES,
    check_choice,
    check_ebnf,
    check_regex,
    check_schema,
    check_sizes,
    check_tag_size,
    resolve_ref,
)

# Models put one space behind a colon and a comma. Without a limit, small ones may write whitespace
# until their tokens run out.
_MAX_WHITESPACE = 1
# Up to here a pattern compiles in a third of the time that length keywords take, a token costs a
# tenth, and control characters stay out.
_MAX_PATTERN_LENGTH = 128
_CHARACTER = r'[^\x00-\x1f"\\]'
_PYDANTIC_PATTERNS: Mapping[str, str] = {  # with a lookahead, which the compiler does not know
    r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$": r"^[+-]?(\d+\.?\d*|\.\d+)$"  # of a Decimal
}
_MAX_URL_LENGTH = 2083  # pydantic's for HttpUrl


@dataclass(frozen=True, slots=True)
class OutputGrammar:
    """A structural tag as JSON text, and the field of the request that asks for it."""

    structural_tag: str
    param: str


def from_format(format: Mapping[str, Any], param: str) -> OutputGrammar:
    """A format of xgrammar's structural tags. The JSON schemas in it are checked and restated.

    Raises: InvalidRequest.
    """
    check_sizes(_iterate_schemas(format), param)
    tag = {"type": "structural_tag", "format": _prepare_format(format, param)}
    text = orjson.dumps(tag).decode()
    check_tag_size(text, param)
    return OutputGrammar(text, param)


def json_object(param: str) -> OutputGrammar:
    """Any JSON object."""
    return json_schema({"type": "object"}, param)


def json_schema(schema: Mapping[str, Any] | bool, param: str) -> OutputGrammar:
    """JSON after a schema. Raises: InvalidRequest."""
    return from_format({"type": "json_schema", "json_schema": schema}, param)


def regex(pattern: str, param: str) -> OutputGrammar:
    """Text that matches as a whole. Raises: InvalidRequest."""
    check_regex(pattern, param)
    return from_format({"type": "regex", "pattern": pattern}, param)


def choice(options: Sequence[str], param: str) -> OutputGrammar:
    """One of some texts. Raises: InvalidRequest."""
    check_choice(options, param)
    elements = [{"type": "const_string", "value": option} for option in dict.fromkeys(options)]
    return from_format({"type": "or", "elements": elements}, param)


def ebnf(grammar: str, param: str) -> OutputGrammar:
    """Text of a grammar in llama.cpp's EBNF, from its rule `root`. Raises: InvalidRequest."""
    check_ebnf(grammar, param)
    return from_format({"type": "grammar", "grammar": grammar}, param)


def _iterate_schemas(format: Any) -> Iterator[Any]:
    if isinstance(format, list):
        for element in format:
            yield from _iterate_schemas(element)
    elif isinstance(format, Mapping):
        if format.get("type") == "json_schema":
            yield format["json_schema"]
        else:
            yield from _iterate_schemas(list(format.values()))


def _prepare_format(format: Any, param: str) -> Any:
    if isinstance(format, list):
        return [_prepare_format(element, param) for element in format]
    if not isinstance(format, Mapping):
        return format
    if format.get("type") != "json_schema":
        return {name: _prepare_format(value, param) for name, value in format.items()}
    schema = format["json_schema"]
    check_schema(schema, param)
    restated = _restate(schema, schema)
    return {"max_whitespace_cnt": _MAX_WHITESPACE, **format, "json_schema": restated}


def _restate(schema: Any, root: Any) -> Any:
    """The same schema in words that the compiler understands as they are meant."""
    if not isinstance(schema, Mapping):
        return schema
    restated = {keyword: _restate_parts(keyword, schema[keyword], root) for keyword in schema}
    restated |= _leave_open(restated)
    if "oneOf" in schema and _are_distinct(schema["oneOf"], root):
        restated["anyOf"] = restated.pop("oneOf")
    if "pattern" in schema:
        restated["pattern"] = _PYDANTIC_PATTERNS.get(schema["pattern"], schema["pattern"])
    return _restate_length(restated)


def _restate_parts(keyword: str, value: Any, root: Any) -> Any:
    if keyword == "propertyNames":  # names are strings without its saying so
        return _restate({"type": "string", **value}, root)
    if keyword in SCHEMA_VALUES:
        return _restate(value, root)
    if keyword in SCHEMA_LISTS:
        return [_restate(part, root) for part in value]
    if keyword in SCHEMA_MAPS:
        return {name: _restate(part, root) for name, part in value.items()}
    return value


def _leave_open(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The compiler lets an array or object of which nothing is said be empty only."""
    types = schema.get("type", ())
    if "array" in types and not _has_any(schema, ("items", "prefixItems", "unevaluatedItems")):
        return {"items": True, **_open_object(schema)}
    return _open_object(schema)


def _open_object(schema: Mapping[str, Any]) -> dict[str, Any]:
    said = (
        "properties",
        "patternProperties",
        "propertyNames",
        "additionalProperties",
        "unevaluatedProperties",
    )
    is_open = "object" in schema.get("type", ()) and not _has_any(schema, said)
    return {"additionalProperties": True} if is_open else {}


def _restate_length(schema: dict[str, Any]) -> dict[str, Any]:
    """`minLength` and `maxLength` of a string as a pattern, if they are small and alone.

    Beside a format they are not supported, but those of pydantic's URLs say next to nothing.
    """
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    others = {word: schema[word] for word in schema if word not in ("minLength", "maxLength")}
    is_text = "string" in schema.get("type", ())
    if len(others) == len(schema) or not is_text or "pattern" in schema:
        return schema
    if "format" in schema:
        is_url = schema["format"] == "uri" and least <= 1 and most in (None, _MAX_URL_LENGTH)
        return others if is_url else schema
    if max(least, most or 0) > _MAX_PATTERN_LENGTH or (most is not None and least > most):
        return schema
    pattern = f"^{_CHARACTER}{{{least},{'' if most is None else most}}}$"
    return {**others, "pattern": pattern}


def _are_distinct(options: Sequence[Any], root: Any) -> bool:
    """Whether the options of a `oneOf` are objects told apart by the constant of one property.

    Then it is an `anyOf`. The compiler proves this for itself, but not through `$ref`.
    """
    return any(_tells_apart(name, options, root) for name in _required_names(options[0], root))


def _tells_apart(name: str, options: Sequence[Any], root: Any) -> bool:
    seen: set[bytes] = set()
    for option in options:
        values = _constants(name, option, root)
        if not values or not seen.isdisjoint(values):
            return False
        seen |= values
    return True


def _required_names(schema: Any, root: Any) -> Iterable[str]:
    return dict.fromkeys(_object_of(schema, root).get("required", ()))


def _constants(name: str, schema: Any, root: Any) -> set[bytes]:
    """The constant values, as JSON, that a required property of an object may have."""
    schema = _object_of(schema, root)
    part = schema["properties"][name] if name in schema.get("required", ()) else None
    if not isinstance(part, Mapping) or not _has_any(part, ("const", "enum")):
        return set()
    return {orjson.dumps(value) for value in part.get("enum", (part.get("const"),))}


def _object_of(schema: Any, root: Any) -> Mapping[str, Any]:
    """The schema of an object, behind a `$ref` too; an empty one if it is something else."""
    if isinstance(schema, Mapping) and "$ref" in schema:
        schema = resolve_ref(root, schema["$ref"])
    return schema if isinstance(schema, Mapping) and schema.get("type") == "object" else {}


def _has_any(schema: Mapping[str, Any], keywords: Iterable[str]) -> bool:
    return any(keyword in schema for keyword in keywords)
