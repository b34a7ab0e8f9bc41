"""From the bytes of a body to a model: what is refused, and what is ignored by name."""

from typing import Any

import orjson
import pytest

from server.body import MAX_NAMED_UNKNOWN, MAX_OBJECT_KEYS, MAX_PARTS, ParsedBody, parse_body
from server.errors import MAX_NAME_CHARS, InvalidRequest
from server.protocol import ChatCompletionRequest
from tests.fake_backend import image_part, make_body, video_part

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"x": {"y": 1}}}}


def parse(content: Any = "hi", **fields: Any) -> ParsedBody[ChatCompletionRequest]:
    return parse_body(orjson.dumps(make_body(content, **fields)), ChatCompletionRequest)


def refuse(body: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse_body(body, ChatCompletionRequest)
    return caught.value


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b"\xff"])
def test_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    assert refuse(body).code == "invalid_json"


def test_a_request_without_unknown_fields_names_none() -> None:
    assert parse().unknown == ()


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"temprature": 1}, "temprature"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage"),
        ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs.tokenize"),
        ({"mm_processor_kwargs": {"revision": "x"}}, "mm_processor_kwargs.revision"),
        ({"content": [image_part(fps=2)]}, "messages[0].content[0].image_url.fps"),
        ({"content": [video_part(), {**image_part(), "x": 1}]}, "messages[0].content[1].x"),
        ({"tools": [{**TOOL, "x": 1}]}, "tools[0].x"),
        ({"tool_choice": {**TOOL, "x": 1}, "tools": [TOOL]}, "tool_choice.x"),
        ({"token_limit": 3}, "token_limit"),
        ({"model_extra": [1]}, "model_extra"),
    ],
)
def test_an_unknown_field_is_ignored_by_name(fields: dict[str, Any], name: str) -> None:
    parsed = parse(**fields)
    assert name in parsed.unknown
    assert parsed.request.token_limit is None


def test_free_objects_have_no_unknown_fields() -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"x": {"y": 1}}}}
    fields = {"metadata": {"a": "b"}, "tools": [TOOL], "response_format": schema}
    assert parse(**fields).unknown == ()


def test_only_the_first_unknown_names_are_kept_and_cut() -> None:
    unknown = parse(**{f"{index}" + "x" * 500: 1 for index in range(50)}).unknown
    assert len(unknown) == MAX_NAMED_UNKNOWN
    assert all(len(name) == MAX_NAME_CHARS for name in unknown)


@pytest.mark.parametrize("depth", [10, 1000])
def test_an_unknown_field_may_be_deeply_nested(depth: int) -> None:
    nested = b"[" * depth + b"]" * depth
    body = orjson.dumps(make_body())[:-1] + b',"unknown":' + nested + b"}"
    assert parse_body(body, ChatCompletionRequest).unknown == ("unknown",)


def test_an_unknown_field_does_not_hide_a_fault() -> None:
    error = refuse(orjson.dumps(make_body(unknown=1, temperature="x")))
    assert error.param == "temperature"


def test_many_faults_are_counted_not_listed() -> None:
    names = ("temperature", "top_p", "top_k", "min_p", "seed", "n", "max_tokens")
    error = refuse(orjson.dumps(make_body(**dict.fromkeys(names, "x"))))
    assert sum(f"`{name}`" in error.message for name in names) == 3
    assert error.message.endswith("4 more")


@pytest.mark.parametrize("place", ["request", "unknown", "metadata"])
def test_object_with_very_many_keys_is_refused_before_validation(place: str) -> None:
    wide = {f"key_{index}": 1 for index in range(MAX_OBJECT_KEYS + 1)}
    fields: dict[str, Any] = wide if place == "request" else {place: [wide]}
    error = refuse(orjson.dumps(make_body(**fields)))
    assert str(MAX_OBJECT_KEYS) in error.message and "key_" not in error.message


@pytest.mark.parametrize("name", ["messages", "input"])
def test_parts_are_counted_over_all_messages(name: str) -> None:
    parts = [{"type": "text", "text": "a"}] * (MAX_PARTS // 4)
    messages = [{"role": "user", "content": parts}] * 5
    error = refuse(orjson.dumps({**make_body(), name: messages}))
    assert (error.code, error.param) == ("too_complex", name)
