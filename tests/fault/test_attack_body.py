"""Hostile bodies and headers: a typed refusal, nothing echoed, and the server goes on."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from server.errors import InvalidRequest
from server.prompt import PromptRenderer
from server.settings import Settings
from tests.fake_backend import Server, assert_error, make_body, parse_chat

VALID = b'"model":"qwen","messages":[{"role":"user","content":"a"}]'
JSON = {"content-type": "application/json"}
PARAMETERS = [
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "n",
    "max_tokens",
    "max_completion_tokens",
    "min_tokens",
    "ignore_eos",
    "logprobs",
    "top_logprobs",
    "stream",
    "stream_options",
    "mm_processor_kwargs",
    "chat_template_kwargs",
    "messages",
    "logit_bias",
    "stop_token_ids",
    "include_stop_str_in_output",
    "priority",
    "enable_thinking",
    "thinking",
    "thinking_budget",
    "thinking_token_budget",
    "reasoning_effort",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "guided_choice",
]
INNER = {"b": 1}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00",
        b"null",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"{" + VALID + b',"top_p":NaN}',
        b"{" + VALID + b',"top_p":1e999}',
        b"{" + VALID + b',"top_k":' + b"9" * 5000 + b"}",
        b'{"model":"qwen","messages":[{"role":"user","content":"\xff"}]}',
        b'{"model":"qwen","messages":[{"role":"user","content":"\\ud800"}]}',
        b"\xef\xbb\xbf{" + VALID + b"}",
    ],
)
async def test_what_is_not_proper_json_is_refused(body: bytes) -> None:
    server = Server()
    response = await server.request("POST", "/v1/chat/completions", content=body, headers=JSON)
    assert_error(response, 400, "invalid_json")
    assert server.engine.requests == []


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("value", ["x", [None], {"fps": INNER, "enable_thinking": INNER}, 2.5e300])
def test_a_value_of_another_kind_is_refused(name: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_chat(orjson.dumps({**make_body(), name: value}))
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("top_k", [2**31, 2**64 - 1])
def test_a_top_k_that_the_engine_cannot_hold_is_refused(top_k: int) -> None:
    assert parse_chat(b"{" + VALID + b',"top_k":%d}' % (2**31 - 1)).top_k == 2**31 - 1
    with pytest.raises(InvalidRequest):
        parse_chat(b"{" + VALID + b',"top_k":%d}' % top_k)


@pytest.mark.parametrize("values", [b"{},", b"[],", b"0,", b'{"a":[],"b":[]},', b'"",'])
def test_millions_of_tiny_values_are_refused_unparsed(
    values: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[bytes] = []
    monkeypatch.setattr("server.body.orjson.loads", parsed.append)
    body = b"{" + VALID + b',"metadata":[' + values * 200_001 + b"0]}"
    with pytest.raises(InvalidRequest) as caught:
        parse_chat(body)
    assert (caught.value.code, parsed) == ("too_complex", [])


def test_content_parts_are_counted_over_all_messages() -> None:
    def refused_code(num_messages: int) -> str | None:
        parts = [{"type": "text", "text": "a"}] * 1024
        messages = [{"role": "user", "content": parts}] * num_messages
        try:
            parse_chat(orjson.dumps({"model": "qwen", "messages": messages}))
        except InvalidRequest as error:
            return error.code
        return None

    assert [refused_code(4), refused_code(5)] == [None, "too_complex"]


async def test_a_body_that_never_ends_is_given_up() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    server = Server(settings=Settings(server={"body_timeout_s": 0.01}))
    response = await server.request("POST", "/v1/chat/completions", content=body(), headers=JSON)
    assert_error(response, 408, "body_timeout")
    assert response.headers["connection"] == "close"
    assert server.sample("qwen3vl_requests_total", outcome="rejected", status="408") == 1


async def test_bodies_that_are_being_read_count_as_requests() -> None:
    is_reading, release = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        is_reading.set()
        await release.wait()
        yield orjson.dumps(make_body())

    async def unread() -> AsyncIterator[bytes]:
        raise AssertionError("the body of a refused request was read")
        yield b""

    server = Server(settings=Settings(server={"max_concurrent_requests": 1}))
    path = "/v1/chat/completions"
    first = asyncio.create_task(server.request("POST", path, content=slow(), headers=JSON))
    await is_reading.wait()
    second = await server.request("POST", path, content=unread(), headers=JSON)
    assert_error(second, 503, "overloaded")
    release.set()
    assert (await first).status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip"])
async def test_a_compressed_body_is_refused(encoding: str) -> None:
    headers = {**JSON, "content-encoding": encoding}
    response = await Server().request(
        "POST", "/v1/chat/completions", content=b"\x1f\x8b", headers=headers
    )
    message = assert_error(response, 415, "unsupported_content_encoding")
    assert "Content-Encoding" in message


async def test_long_values_are_not_echoed() -> None:
    server = Server()
    long = "m" * 10_000
    function = {"name": long}
    for fields in (
        {"model": long},
        {"stop": [long]},
        {"tools": [{"type": "function", "function": function}]},
        {"tool_choice": {"type": "function", "function": function}},
        {"response_format": {"type": long}},
        {"reasoning_effort": long},
    ):
        response = await server.post("hi", **fields)
        assert 400 <= response.status_code < 500
        assert len(response.content) < 1000


@pytest.mark.parametrize(
    "name", ["k" * 10_000, "a\r\nset-cookie: b=1", 'a"b', "ż\x00\x7f\x85", "\u2028", ""]
)
async def test_odd_names_of_unknown_fields_are_no_odd_headers(name: str) -> None:
    response = await Server().post("hi", **dict.fromkeys((f"{n}{name}" for n in range(20)), 1))
    assert response.status_code == 200
    warning = response.headers["warning"]
    assert warning.startswith('299 - "unknown fields are ignored: 0')
    assert warning.count('"') == 2 and warning.isascii() and warning.isprintable()
    assert len(warning) < 1000
    assert "set-cookie" not in response.headers


@pytest.fixture(scope="module")
def renderer(hybrid_checkpoint: Path) -> PromptRenderer:
    return PromptRenderer(str(hybrid_checkpoint))


TOOL = {"type": "function", "function": {"name": "f", "parameters": "DEEP"}}
CALL = {"id": "1", "function": {"name": "f", "arguments": "DEEP TEXT"}}


@pytest.mark.parametrize("depth", [900, 1000])
@pytest.mark.parametrize(
    "fields",
    [
        {"unknown": "DEEP"},
        {"guided_json": "DEEP"},
        {"guided_json": "DEEP TEXT"},
        {"tools": [TOOL]},
        {"tools": [TOOL], "tool_choice": "required"},
        {"messages": [{"role": "assistant", "tool_calls": [CALL]}]},
    ],
)
async def test_deep_nesting_is_no_internal_error(
    fields: dict[str, Any], depth: int, renderer: PromptRenderer
) -> None:
    deep = b'{"a":' * depth + b"1" + b"}" * depth
    body = orjson.dumps(make_body(**fields)).replace(b'"DEEP"', deep)
    body = body.replace(b'"DEEP TEXT"', orjson.dumps(deep.decode()))
    server = Server(renderer=renderer, max_model_len=100_000)
    response = await server.request("POST", "/v1/chat/completions", content=body, headers=JSON)
    assert response.status_code < 500, response.text


@pytest.mark.parametrize("given", ["a\tb", "a b", "<b>", "a" * 129, "", "a;b", 'a"b'])
async def test_an_odd_request_id_is_replaced(given: str) -> None:
    response = await Server().request("GET", "/health", headers={"x-request-id": given})
    assert response.headers["x-request-id"].startswith("req-")


async def test_clients_cannot_add_labels_to_the_metrics() -> None:
    server = Server()
    await server.post("hi")
    await server.request("GET", "/nowhere")
    await server.post("hi", model="unknown-1")
    before = len((await server.request("GET", "/metrics")).text.splitlines())
    for index in range(20):
        await server.post("hi", user=f"user-{index}")
        await server.post("hi", model=f"model-{index}")
        await server.request("GET", f"/path-{index}", headers={"x-request-id": f"id-{index}"})
    assert len((await server.request("GET", "/metrics")).text.splitlines()) == before
