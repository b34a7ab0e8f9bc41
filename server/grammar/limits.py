"""What a schema, regex, choice or grammar of a client may be before anything compiles it.

Sizes come first. Then, what the compiler (xgrammar 0.2.8) passes over in silence is refused by
name: an answer would not follow it. What it warns of is refused by `server.grammar.worker`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import orjson

from server.errors import InvalidRequest, format_param
from server.nesting import MAX_NESTING, is_nested_deeper

MAX_TAG_BYTES = 512 * 1024  # of all that one request asks for: 128 tools, for example
MAX_SCHEMA_BYTES = 64 * 1024
MAX_SCHEMAS = 2000
MAX_ENUM_VALUES = 5000  # 70 ms; 20,000 take 1.7 s
MAX_OPTIONAL = 256  # properties of one object; 1.7 s, and it grows with the square
MAX_BOUND = 100_000  # of lengths and counts; the compiler holds some of them in 32 bits
MAX_REGEX_CHARS = 2048
MAX_REGEX_SIZE = 4096  # characters and classes, each as often as its repetitions say
MAX_QUANTIFIERS = 4  # in each other: `((a*)*)*` has 3
MAX_PATTERN_REPEAT = 128  # of a `pattern`; beyond, the engine's compiler always fails
MAX_CHOICES = 2000
MAX_CHOICE_BYTES = 64 * 1024
MAX_EBNF_BYTES = 32 * 1024

_MAX_PLACE_CHARS = 200
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")

# Where schemas stand in schemas.
SCHEMA_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
SCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions")
SCHEMA_VALUES = (
    "items",
    "additionalProperties",
    "unevaluatedItems",
    "unevaluatedProperties",
    "propertyNames",
)

# The first of these that a schema has decides alone: what stands beside it is passed over.
_DECIDING = ("$ref", "const", "enum", "anyOf", "oneOf", "allOf")
_KEYWORDS: Mapping[str, frozenset[str]] = {
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "number": frozenset(
        {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
    ),
    "array": frozenset({"items", "prefixItems", "unevaluatedItems", "minItems", "maxItems"}),
    "object": frozenset(
        {
            "properties",
            "required",
            "additionalProperties",
            "unevaluatedProperties",
            "patternProperties",
            "propertyNames",
            "minProperties",
            "maxProperties",
        }
    ),
}
_CONSTRAINTS = frozenset().union(*_KEYWORDS.values())
_TYPES = frozenset({"string", "number", "integer", "boolean", "null", "array", "object"})
_BOUNDS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
# Without `type`, these still make the compiler take a schema for an object's, or for an array's.
_TELLING_OBJECT = ("properties", "additionalProperties", "unevaluatedProperties")
_TELLING_ARRAY = ("items", "prefixItems", "unevaluatedItems")
_UNSUPPORTED = (
    "not",
    "if",
    "then",
    "else",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "contains",
    "minContains",
    "maxContains",
    "additionalItems",
    "$dynamicRef",
    "$recursiveRef",
)
# Each pair is passed over or misunderstood together.
_UNSUPPORTED_TOGETHER = (
    ("properties", "propertyNames"),
    ("properties", "patternProperties"),
    ("patternProperties", "propertyNames"),
    ("unevaluatedProperties", "propertyNames"),
    ("pattern", "format"),
)
# Those that the compiler knows and spells as JSON; `json-pointer` lets quotes through.
_KNOWN_FORMATS = ("date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time")
_KNOWN_URI_FORMATS = ("uri", "uri-reference", "uri-template", "uuid")
_FREE_FORMATS = ("binary", "directory-path", "file-path", "password", "path")  # any text will do
_FORMATS = frozenset({*_KNOWN_FORMATS, *_KNOWN_URI_FORMATS, *_FREE_FORMATS})


def check_schema(schema: Mapping[str, Any] | bool, param: str) -> None:
    """Raises: InvalidRequest; `schema` may be any JSON value of an object or boolean."""
    if is_nested_deeper(schema):
        _refuse(param, f"objects and arrays nest deeper than {MAX_NESTING} levels")
    text = orjson.dumps(schema)
    _check_size(param, "the schema", len(text), MAX_SCHEMA_BYTES)
    if _NUL.search(text):
        _refuse(param, "a NUL character cannot be matched")
    _SchemaCheck(schema, param).run()


def check_regex(pattern: str, param: str) -> None:
    """Raises: InvalidRequest."""
    if not pattern:
        _refuse(param, "an empty regex matches nothing but the empty text")
    _check_regex_size(pattern, param, ())


def check_choice(options: Sequence[str], param: str) -> None:
    """Raises: InvalidRequest."""
    if not options:
        _refuse(param, "there must be at least one choice")
    if len(options) > MAX_CHOICES:
        _refuse(param, f"{len(options)} choices are more than {MAX_CHOICES}")
    num_bytes = sum(len(option.encode()) for option in options)
    _check_size(param, "the choices", num_bytes, MAX_CHOICE_BYTES)
    if any("\0" in option for option in options):
        _refuse(param, "a NUL character cannot be matched")


def check_ebnf(grammar: str, param: str) -> None:
    """Raises: InvalidRequest."""
    _check_size(param, "the grammar", len(grammar.encode()), MAX_EBNF_BYTES)
    if "\0" in grammar:
        _refuse(param, "a NUL character cannot be matched")
    if "::=" not in grammar:
        _refuse(
            param,
            "not in EBNF as llama.cpp and xgrammar have it (`root ::= ...`); Lark's notation is "
            "not supported",
            code="unsupported_grammar",
        )


def check_sizes(schemas: Iterable[Any], param: str) -> None:
    """What all of them come to, before any work is done for the first. Raises: InvalidRequest."""
    num_bytes = 0
    for schema in schemas:
        if is_nested_deeper(schema):
            _refuse(param, f"objects and arrays nest deeper than {MAX_NESTING} levels")
        num_bytes += len(orjson.dumps(schema))
        _check_size(param, "all schemas together", num_bytes, MAX_TAG_BYTES)


def check_tag_size(text: str, param: str) -> None:
    """Raises: InvalidRequest."""
    _check_size(param, "all schemas together", len(text.encode()), MAX_TAG_BYTES)


def iterate_subschemas(schema: Mapping[str, Any]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """The schemas that stand directly in this one, each with its path from here."""
    for keyword in SCHEMA_LISTS:
        if isinstance(schema.get(keyword), list):
            for index, subschema in enumerate(schema[keyword]):
                yield (keyword, index), subschema
    for keyword in SCHEMA_MAPS:
        if isinstance(schema.get(keyword), dict):
            for name, subschema in schema[keyword].items():
                yield (keyword, name), subschema
    for keyword in SCHEMA_VALUES:
        if keyword in schema:
            yield (keyword,), schema[keyword]


def resolve_ref(root: Any, uri: object) -> Any:
    """What a `$ref` means to the compiler; None if nothing. Names are not unescaped."""
    if uri == "#":
        return root
    if not isinstance(uri, str) or not uri.startswith("#/"):
        return None
    for name in uri[2:].split("/"):
        root = root.get(name) if isinstance(root, dict) else None
    return root


class _SchemaCheck:
    """One walk over a schema and all that stand in it."""

    def __init__(self, root: Any, param: str) -> None:
        self._root = root
        self._param = param
        self._num_schemas = 0
        self._num_values = 0
        self._places: set[str] = {"#"}
        self._types_of_ref: dict[str, frozenset[str]] = {}
        self._refs: list[tuple[object, tuple[str | int, ...]]] = []

    def run(self) -> None:
        self._walk(self._root, ())
        for uri, place in self._refs:
            if not isinstance(uri, str) or uri not in self._places:
                self._refuse(
                    "`$ref` must name a schema of the same document, as `#/$defs/NAME` does", place
                )

    def _walk(self, schema: Any, place: tuple[str | int, ...]) -> None:
        self._num_schemas += 1
        if self._num_schemas > MAX_SCHEMAS:
            self._refuse(f"the schema consists of more than {MAX_SCHEMAS} schemas", ())
        if all(isinstance(name, str) and name and "/" not in name for name in place):
            self._places.add("/".join(("#", *map(str, place))))
        if isinstance(schema, bool):
            return
        if not isinstance(schema, dict):
            self._refuse("a schema must be an object or a boolean", place)
        self._check(schema, place)
        for path, subschema in iterate_subschemas(schema):
            if path == ("propertyNames",):
                subschema = {"type": "string", **subschema}
            self._walk(subschema, place + path)

    def _check(self, schema: dict[str, Any], place: tuple[str | int, ...]) -> None:
        self._check_support(schema, place)
        self._check_types(schema, place)
        self._check_values(schema, place)
        self._check_object(schema, place)
        self._check_string(schema, place)
        if "$ref" in schema:
            self._refs.append((schema["$ref"], place))

    def _check_support(self, schema: dict[str, Any], place: tuple[str | int, ...]) -> None:
        found = [keyword for keyword in _UNSUPPORTED if keyword in schema]
        if schema.get("uniqueItems", False) is not False:
            found.append("uniqueItems")
        if found:
            self._refuse_support(f"`{found[0]}`", place)
        for pair in _UNSUPPORTED_TOGETHER:
            if all(keyword in schema for keyword in pair):
                self._refuse_support(f"`{pair[0]}` beside `{pair[1]}`", place)
        for keyword, most in (("allOf", 1), ("patternProperties", 1)):
            if len(_sized(schema.get(keyword))) > most:
                self._refuse_support(f"`{keyword}` with more than one member", place)

    def _check_types(self, schema: dict[str, Any], place: tuple[str | int, ...]) -> None:
        if "type" in schema and not _given_types(schema) <= _TYPES:
            self._refuse("`type` must be a JSON type, or a list of some", place)
        deciding = [keyword for keyword in _DECIDING if keyword in schema]
        ignored = [*deciding[1:], *sorted(_CONSTRAINTS & schema.keys())]
        if deciding:
            possible = self._find_types({deciding[0]: schema[deciding[0]]})
            if "type" in schema and not possible <= _given_types(schema):
                ignored.append("type")
            if ignored:
                self._refuse_support(f"`{ignored[0]}` beside `{deciding[0]}`", place)
        elif "type" not in schema and not _tells_type(schema) and ignored:
            self._refuse_support(f"`{ignored[0]}` without `type`", place)

    def _check_values(self, schema: dict[str, Any], place: tuple[str | int, ...]) -> None:
        for keyword in ("enum", "anyOf", "oneOf", "allOf"):
            if keyword in schema and not (isinstance(schema[keyword], list) and schema[keyword]):
                self._refuse(f"`{keyword}` must be a list with at least one member", place)
        if not isinstance(schema.get("prefixItems", []), list):
            self._refuse("`prefixItems` must be a list", place)
        self._num_values += len(schema.get("enum", ()))
        if self._num_values > MAX_ENUM_VALUES:
            self._refuse(f"there are more than {MAX_ENUM_VALUES} `enum` values", ())
        for keyword in _BOUNDS:
            bound = schema.get(keyword, 0)
            if isinstance(bound, bool) or not isinstance(bound, int):
                self._refuse(f"`{keyword}` must be an integer", place)
            if not 0 <= bound <= MAX_BOUND:
                self._refuse(f"`{keyword}` must be between 0 and {MAX_BOUND}", place)

    def _check_object(self, schema: dict[str, Any], place: tuple[str | int, ...]) -> None:
        for keyword in (*SCHEMA_MAPS, "propertyNames"):
            if not isinstance(schema.get(keyword, {}), dict):
                self._refuse(f"`{keyword}` must be an object", place)
        required, properties = schema.get("required", []), schema.get("properties", {})
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            self._refuse("`required` must be a list of names", place)
        if not properties.keys() >= set(required):
            self._refuse_support("a name in `required` that is not in `properties`", place)
        num_optional = len(properties) - len(set(required))
        if num_optional > MAX_OPTIONAL:
            self._refuse(f"{num_optional} optional properties are more than {MAX_OPTIONAL}", place)
        for pattern in schema.get("patternProperties", {}):
            _check_pattern(pattern, self._param, place)

    def _check_string(self, schema: dict[str, Any], place: tuple[str | int, ...]) -> None:
        for keyword in ("pattern", "format"):
            if not isinstance(schema.get(keyword, ""), str):
                self._refuse(f"`{keyword}` must be a string", place)
        if "pattern" in schema:
            _check_pattern(schema["pattern"], self._param, place)
        is_text = "string" in _given_types(schema) or "type" not in schema
        if "format" in schema and is_text and schema["format"] not in _FORMATS:
            self._refuse_support("this `format`", place)

    def _find_types(self, schema: Any, hops: int = 16) -> frozenset[str]:
        """The JSON types that values of this schema may have, as the compiler sees it."""
        if not isinstance(schema, dict) or hops == 0:
            return _TYPES
        if "$ref" in schema:
            return self._find_types_of_ref(str(schema["$ref"]), hops)
        if "const" in schema:
            return frozenset({_type_of(schema["const"])})
        if "enum" in schema:
            return frozenset(map(_type_of, _sized(schema["enum"])))
        for keyword in ("anyOf", "oneOf", "allOf"):
            if keyword in schema:
                found = (self._find_types(option, hops - 1) for option in _sized(schema[keyword]))
                return frozenset().union(*found)
        return _given_types(schema) if "type" in schema else _tells_type(schema) or _TYPES

    def _find_types_of_ref(self, uri: str, hops: int) -> frozenset[str]:
        """Looked up once: unions may lead to themselves, and to each other many times."""
        if uri not in self._types_of_ref:
            self._types_of_ref[uri] = frozenset()  # where it leads to itself, it adds nothing
            found = self._find_types(resolve_ref(self._root, uri), hops - 1)
            self._types_of_ref[uri] = found
        return self._types_of_ref[uri]

    def _refuse(self, reason: str, place: tuple[str | int, ...]) -> NoReturn:
        _refuse(self._param, reason, place)

    def _refuse_support(self, what: str, place: tuple[str | int, ...]) -> NoReturn:
        _refuse(self._param, f"{what} is not supported", place, "unsupported_grammar")


def _given_types(schema: Mapping[str, Any]) -> frozenset[str]:
    """`type` as a set, in which numbers may be integers; something unknown if it is malformed."""
    given = schema.get("type")
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, list) or not given or not all(isinstance(t, str) for t in given):
        return frozenset({""})
    return frozenset(given) | ({"integer"} if "number" in given else set())


def _tells_type(schema: Mapping[str, Any]) -> frozenset[str]:
    if any(keyword in schema for keyword in _TELLING_OBJECT):
        return frozenset({"object"})
    is_array = any(keyword in schema for keyword in _TELLING_ARRAY)
    return frozenset({"array"}) if is_array else frozenset()


def _type_of(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "integer" if float(value).is_integer() else "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def _sized(value: object) -> Any:
    return value if isinstance(value, list | dict) else ()


# A regex, cut into what counts: an escape, a class, a group's start or end, a quantifier, a bar, or
# one plain character.
_REGEX_PARTS = re.compile(
    r"""(?P<escape>\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|c[A-Za-z]|.))
      |(?P<char_class>\[\^?(?:\\.|[^\]\\])*\]?)
      |(?P<open>\((?:\?(?:[:=!>]|<[=!]|P?<\w*>))?)
      |(?P<close>\))
      |(?P<quantifier>(?:[*+?]|\{(?P<least>\d+)(?:,(?P<most>\d*))?\})[?+]?)
      |(?P<bar>\|)
      |(?P<plain>.)""",
    re.VERBOSE | re.DOTALL,
)


def _check_regex_size(pattern: str, param: str, place: tuple[str | int, ...]) -> None:
    if len(pattern) > MAX_REGEX_CHARS:
        _refuse(param, f"{len(pattern)} characters of regex are more than {MAX_REGEX_CHARS}", place)
    if "\0" in pattern:
        _refuse(param, "a NUL character cannot be matched", place)
    size, quantifiers = _measure_regex(pattern)
    if size > MAX_REGEX_SIZE:
        _refuse(
            param, f"the regex is longer than {MAX_REGEX_SIZE} with its repetitions written", place
        )
    if quantifiers > MAX_QUANTIFIERS:
        _refuse(
            param,
            f"more than {MAX_QUANTIFIERS} quantifiers of the regex stand in each other",
            place,
        )


def _measure_regex(pattern: str) -> tuple[int, int]:
    """(characters and classes with repetitions written out, most quantifiers in each other)."""
    groups = [[0, 0]]  # of each open group: the same two, without its last part
    last_size = last_depth = 0
    for part in _REGEX_PARTS.finditer(pattern):
        if part.lastgroup == "quantifier":
            times = max(int(part["most"] or 0), int(part["least"] or 0), 1)
            last_size, last_depth = last_size * times, last_depth + 1
            continue
        groups[-1] = [groups[-1][0] + last_size, max(groups[-1][1], last_depth)]
        last_size, last_depth = int(part.lastgroup in ("escape", "char_class", "plain")), 0
        if part.lastgroup == "open":
            groups.append([0, 0])
        elif part.lastgroup == "close" and len(groups) > 1:
            last_size, last_depth = groups.pop()
    return (
        sum(size for size, _ in groups) + last_size,
        max(last_depth, *(depth for _, depth in groups)),
    )


def _check_pattern(pattern: str, param: str, place: tuple[str | int, ...]) -> None:
    """A regex for JSON strings: the compiler puts its characters between the quotes as they are."""
    _check_regex_size(pattern, param, place)
    for part in _REGEX_PARTS.finditer(pattern):
        most = max(int(part["most"] or 0), int(part["least"] or 0))
        if most > MAX_PATTERN_REPEAT:
            _refuse(param, f"a repetition of more than {MAX_PATTERN_REPEAT} in a regex", place)
        if _is_escaped_in_json(part):
            _refuse(
                param,
                "a quote, backslash or control character in a regex for strings is not supported",
                place,
                "unsupported_grammar",
            )


def _is_escaped_in_json(part: re.Match[str]) -> bool:
    text = part.group()
    if part.lastgroup == "plain":
        return text == '"' or text < " "
    if part.lastgroup != "escape":
        return False
    if text[1] in "xu" and len(text) > 2:
        code = int(text[2:], 16)
        return code < 0x20 or code in (0x22, 0x5C)
    return text[1] in 'ntrfv0c"\\'


def _check_size(param: str, what: str, num_bytes: int, limit: int) -> None:
    if num_bytes > limit:
        _refuse(param, f"{num_bytes} bytes of {what} are more than {limit}")


def _refuse(
    param: str, reason: str, place: tuple[str | int, ...] = (), code: str = "invalid_grammar"
) -> NoReturn:
    where = format_param(place)
    at = f" (at `{where[:_MAX_PLACE_CHARS]}`)" if where else ""
    raise InvalidRequest(f"`{param}`: {reason}{at}", code, param)
