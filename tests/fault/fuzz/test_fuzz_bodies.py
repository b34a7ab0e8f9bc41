"""Bodies near valid ones: each is a request, or refused with a short text."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.body import BodyModel, MediaUrl, parse_body
from server.body_data_url import MIN_CHARS
from server.errors import InvalidRequest
from tests.fault.fuzz.bodies import READERS
from tests.fault.fuzz.mutations import encoded_json, json_values, mutated_bytes, mutated_json

MAX_ERROR_CHARS = 1000
_CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "u"}]}


def read(name: str, body: bytes) -> None:
    reader, _ = READERS[name]
    try:
        reader(body)
    except InvalidRequest as error:
        assert len(error.message) < MAX_ERROR_CHARS
        assert error.param is None or len(error.param) < MAX_ERROR_CHARS


@pytest.mark.parametrize("name", READERS)
def test_the_seeds_are_valid(name: str) -> None:
    """Or else the tests below would look at refusals only."""
    reader, seeds = READERS[name]
    for seed in seeds:
        reader(json.dumps(seed).encode())


@pytest.mark.parametrize("name", READERS)
def test_changed_values_are_requests_or_refused(name: str) -> None:
    _, seeds = READERS[name]

    @given(encoded_json(seeds))
    def check(body: bytes) -> None:
        read(name, body)

    check()


@pytest.mark.parametrize("name", READERS)
def test_changed_bytes_are_requests_or_refused(name: str) -> None:
    _, seeds = READERS[name]

    @given(mutated_bytes([json.dumps(seed).encode() for seed in seeds]))
    def check(body: bytes) -> None:
        read(name, body)

    check()


class _Media(BodyModel):
    """As far as data URLs are taken out of a body, and anything else is not."""

    url: MediaUrl | None = None
    text: str | None = None
    others: list[MediaUrl] | None = None


_URLS = st.builds(
    lambda head, tail, size: f"{head}{'A' * size}{tail}",
    st.sampled_from(("data:image/png;base64,", "data:a/b;x=y;base64,", "data:,", "x")),
    st.sampled_from(("", "=", '"', "\\", "\\/", "é", ",AA", "\n")),
    st.sampled_from((0, MIN_CHARS - 1, MIN_CHARS, MIN_CHARS + 1)),
)


@given(
    st.fixed_dictionaries(
        {},
        optional={"url": _URLS, "text": _URLS, "others": st.lists(_URLS, max_size=3)},
    ),
    st.booleans(),
)
def test_a_body_says_the_same_with_its_data_urls_set_aside(
    fields: dict[str, Any], ensure_ascii: bool
) -> None:
    def whole(url: Any) -> Any:
        payload = getattr(url, "payload", None)
        return url if payload is None else json.loads(f'"{url}{str(payload, "utf-8")}"')

    request = parse_body(json.dumps(fields, ensure_ascii=ensure_ascii).encode(), _Media).request
    assert request.text == fields.get("text")
    assert whole(request.url) == fields.get("url")
    assert [whole(url) for url in request.others or []] == fields.get("others", [])


# A schema with every keyword that is looked at, of which a mutation keeps some.
_KEYWORDS: dict[str, Any] = {
    "type": ["object", "null"],
    "properties": {"a": {"type": "string", "pattern": "^a+$", "format": "date", "maxLength": 4}},
    "patternProperties": {"^a": {"type": "integer", "minimum": 0, "multipleOf": 2}},
    "propertyNames": {"pattern": "a"},
    "additionalProperties": False,
    "unevaluatedProperties": {"$ref": "#/$defs/a"},
    "required": ["a"],
    "minProperties": 1,
    "items": {"enum": [1, "a", None]},
    "prefixItems": [{"const": 1}, True],
    "minItems": 1,
    "anyOf": [{"type": "array", "items": {"type": "number"}, "maxItems": 2}, {"$ref": "#"}],
    "oneOf": [{"type": "boolean"}],
    "allOf": [{"type": "string", "minLength": 1}],
    "enum": [1, "a"],
    "$defs": {"a": {"type": "string"}},
    "$ref": "#/$defs/a",
    "not": {},
    "uniqueItems": False,
}


@st.composite
def schemas(draw: st.DrawFn) -> Any:
    keywords = draw(st.lists(st.sampled_from(sorted(_KEYWORDS)), max_size=4, unique=True))
    schema = {keyword: _KEYWORDS[keyword] for keyword in keywords}
    return draw(st.just(schema) | mutated_json([schema, _KEYWORDS]))


@given(schemas())
def test_a_schema_of_any_form_is_a_grammar_or_refused(schema: Any) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": schema, "strict": True}}
    named = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    for fields in (
        {"guided_json": schema},
        {"guided_json": json.dumps(schema)},
        {"response_format": named},
        {"tools": [tool]},
        {"tools": [tool], "tool_choice": "required"},
        {"tools": [tool], "response_format": named},
    ):
        read("chat", json.dumps({**_CHAT, **fields}).encode())


_REGEX = st.lists(st.sampled_from([*"ab()[]{}|*+?.^$\\-,09", "\\d", "(?:", "(?=", "{1,9}", "é"]))


@given(_REGEX.map("".join) | st.text(max_size=9), json_values(['root ::= "a"', "a|b"]))
def test_a_regex_choice_or_grammar_of_any_form_is_read_or_refused(text: str, other: Any) -> None:
    for value in (text, [text], other):
        for name in ("guided_regex", "guided_grammar", "guided_choice"):
            read("chat", json.dumps({**_CHAT, name: value}).encode())
