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


@given(
    mutated_json([{"type": "object", "properties": {"a": {"enum": [1]}}}]), json_values(["$ref"])
)
def test_schemas_of_any_form_are_grammars_or_refused(schema: Any, other: Any) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "u"}]}
    for name in ("guided_json", "guided_regex", "guided_grammar", "guided_choice"):
        for value in (schema, other):
            read("chat", json.dumps({**body, name: value}).encode())
