"""Anthropic's Messages API over ASGI, without a model."""

import re
from typing import Any

import httpx
import orjson
import pytest

from multimodal.items import ImageRef, VideoRef
from server.settings import Settings
from tests.fake_backend import CORRUPT_URL, IMAGE_URL, VIDEO_URL, FakeRenderer, Server
from tests.fake_engine import make_chunk

TOOL = {"name": "look", "input_schema": {"type": "object", "properties": {}}}
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "the cat"}}\n</tool_call>'
THOUGHT = make_chunk("Fur.\n</think>\n\nA cat.", finish="stop")
ENABLED = {"type": "enabled", "budget_tokens": 64}


def make_body(content: Any = "hi", **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": content}]
    return {"model": "qwen", "max_tokens": 9, "messages": messages, **fields}


async def post(server: Server, content: Any = "hi", **fields: Any) -> httpx.Response:
    return await server.request("POST", "/v1/messages", json=make_body(content, **fields))


async def count(server: Server, content: Any = "hi", **fields: Any) -> httpx.Response:
    body = make_body(content, **fields)
    del body["max_tokens"]
    return await server.request("POST", "/v1/messages/count_tokens", json=body)


async def read_events(server: Server, content: Any = "hi", **fields: Any) -> list[dict[str, Any]]:
    """The data of a stream's events; their names are checked."""
    response = await post(server, content, stream=True, **fields)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, rest = response.content.split(b"\n\n")
    assert rest == b""
    matches = [re.fullmatch(rb"event: (\w+)\ndata: (.*)", event) for event in events]
    data = [orjson.loads(match[2]) for match in matches]
    assert [match[1].decode() for match in matches] == [event["type"] for event in data]
    return data


def make_media(kind: str, url: str) -> dict[str, Any]:
    """A block with the media of a data URL as base64."""
    header, _, data = url.partition(",")
    media_type = header.removeprefix("data:").removesuffix(";base64")
    source = {"type": "base64", "media_type": media_type, "data": data}
    return {"type": kind, "source": source}


def assert_error(
    response: httpx.Response, status: int, kind: str, code: str, param: str | None = None
) -> str:
    """Check Anthropic's error body; return the message."""
    assert response.status_code == status, response.text
    body = response.json()
    assert body["type"] == "error"
    error = body["error"]
    assert (error["type"], error["code"], error["param"]) == (kind, code, param)
    return error["message"]


async def test_answer_has_anthropics_shape():
    server = Server(make_chunk("A ", num_cached_tokens=2), make_chunk("cat.", finish="stop"))
    body = (await post(server, "what is this")).json()
    assert re.fullmatch(r"msg_[0-9a-f]{32}", body.pop("id"))
    assert body == {
        "type": "message",
        "role": "assistant",
        "model": "qwen",
        "content": [{"type": "text", "text": "A cat."}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 1,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 2,
            "output_tokens": 2,
        },
    }


async def test_stream_has_named_events_and_no_other_end():
    server = Server(make_chunk("A "), make_chunk("cat."), make_chunk("", finish="stop"))
    events = await read_events(server)
    assert [event["type"] for event in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0]["message"]["usage"]["input_tokens"] == 1
    assert events[-2]["usage"]["output_tokens"] == 2


async def test_media_reach_the_pipeline():
    server = Server()
    await post(server, [make_media("image", IMAGE_URL), make_media("video", VIDEO_URL)])
    image, video = server.pipeline.refs
    assert isinstance(image, ImageRef) and image.data == b"an image"
    assert isinstance(video, VideoRef) and video.data == b"a video"


async def test_media_are_fetched():
    server = Server()
    source = {"type": "url", "url": "https://example.com/cat.png"}
    await post(server, [{"type": "image", "source": source}])
    assert server.fetcher.urls == ["https://example.com/cat.png"]


async def test_our_options_reach_the_pipeline_and_the_engine():
    server = Server()
    options = {"mm_processor_kwargs": {"max_pixels": 4096}, "seed": 7, "min_p": 0.5}
    await post(server, [make_media("image", IMAGE_URL)], **options)
    assert server.pipeline.refs[0].options.max_pixels == 4096
    sampling = server.engine.requests[0].sampling
    assert (sampling.max_tokens, sampling.seed, sampling.min_p) == (9, 7, 0.5)


async def test_faulty_media_are_named_as_the_client_wrote_them():
    call = {"type": "tool_use", "id": "call_1", "name": "look", "input": {}}
    turns = [("user", "look"), ("assistant", [call])]
    history = [{"role": role, "content": content} for role, content in turns]
    content = [{"type": "text", "text": "see"}, make_media("image", CORRUPT_URL)]
    result = {"type": "tool_result", "tool_use_id": "call_1", "content": content}
    messages = [*history, {"role": "user", "content": [result]}]
    response = await post(Server(), messages=messages, system="Be brief.")
    param = "messages[2].content[0].content[1].source.data"
    assert_error(response, 422, "invalid_request_error", "image_corrupt", param)


async def test_contradiction_is_named_as_the_client_wrote_it():
    server = Server(renderer=FakeRenderer("hybrid"))
    response = await post(server, "hi /no_think", thinking=ENABLED, system="Be brief.")
    code, param = "contradictory_thinking", "messages[0].content"
    message = assert_error(response, 400, "invalid_request_error", code, param)
    assert "`thinking.type` and `messages[0].content`" in message


async def test_missing_limit_is_refused():
    response = await post(Server(), max_tokens=None)
    code = "missing_parameter"
    assert_error(response, 400, "invalid_request_error", code, "max_tokens")


@pytest.mark.parametrize("stream", [False, True])
async def test_another_model_is_not_found(stream):
    response = await post(Server(), model="claude", stream=stream)
    assert_error(response, 404, "not_found_error", "model_not_found", "model")


async def test_body_that_is_no_json_is_refused():
    headers = {"content-type": "application/json"}
    response = await Server().request("POST", "/v1/messages", content=b"{", headers=headers)
    assert_error(response, 400, "invalid_request_error", "invalid_json")


async def test_body_that_is_too_large_is_refused():
    response = await post(Server(settings=Settings(server={"max_body_bytes": 1024})), "x" * 2000)
    assert response.status_code == 413
    assert response.json()["error"]["type"] == "request_too_large"


async def test_server_that_is_not_ready_is_overloaded():
    response = await post(Server(is_loaded=False))
    assert response.status_code == 503
    assert response.json()["error"]["type"] == "overloaded_error"


async def test_failure_of_the_engine_before_the_first_event_has_its_status():
    response = await post(Server(RuntimeError()), stream=True)
    assert_error(response, 500, "api_error", "internal_error")


async def test_failure_of_the_engine_in_mid_stream_is_an_event():
    events = await read_events(Server(make_chunk("A "), RuntimeError()))
    assert [event["type"] for event in events[-2:]] == ["content_block_delta", "error"]
    assert events[-1]["error"]["type"] == "api_error"


async def test_unknown_fields_are_named_in_a_warning():
    response = await post(Server(), speed="fast")
    assert response.status_code == 200
    assert "speed" in response.headers["warning"]


async def test_stop_sequence_is_named():
    server = Server(make_chunk("One, two, three"), make_chunk("", finish="stop"))
    body = (await post(server, stop_sequences=["two", "five"])).json()
    assert body["content"] == [{"type": "text", "text": "One, "}]
    assert (body["stop_reason"], body["stop_sequence"]) == ("stop_sequence", "two")


async def test_limit_ends_the_answer():
    body = (await post(Server(make_chunk("One", finish="length")))).json()
    assert (body["stop_reason"], body["stop_sequence"]) == ("max_tokens", None)


async def test_call_goes_round():
    server = Server(make_chunk(CALL, finish="stop"))
    asked = (await post(server, tools=[TOOL])).json()
    (call,) = asked["content"]
    assert (call["type"], call["name"], call["input"]) == ("tool_use", "look", {"at": "the cat"})
    assert asked["stop_reason"] == "tool_use"
    assert [tool["function"]["name"] for tool in server.renderer.tools] == ["look"]
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": "fur"}
    history = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": asked["content"]},
        {"role": "user", "content": [result]},
    ]
    await post(server, messages=history, tools=[TOOL])
    _, answer, answered = server.renderer.calls[1][0]
    assert answer["tool_calls"][0]["function"]["arguments"] == {"at": "the cat"}
    assert answered == {"role": "tool", "content": "fur", "tool_call_id": call["id"]}


async def test_streamed_call_is_a_block_of_its_own():
    script = [make_chunk(text) for text in ("I look.\n", CALL[:50], CALL[50:])]
    events = await read_events(Server(*script, make_chunk("", finish="stop")), tools=[TOOL])
    kinds = [e["content_block"]["type"] for e in events if e["type"] == "content_block_start"]
    assert kinds == ["text", "tool_use"]
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    arguments = "".join(delta.get("partial_json", "") for delta in deltas)
    assert orjson.loads(arguments) == {"at": "the cat"}
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


async def test_streamed_call_that_fails_becomes_text():
    script = [make_chunk(CALL[:60]), make_chunk("no JSON", finish="stop")]
    events = await read_events(Server(*script), tools=[TOOL])
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(delta.get("text", "") for delta in deltas) == CALL[:60] + "no JSON"
    starts = [event["index"] for event in events if event["type"] == "content_block_start"]
    stops = [event["index"] for event in events if event["type"] == "content_block_stop"]
    assert starts == stops == [0, 1]
    assert events[-2]["delta"]["stop_reason"] == "end_turn"


async def test_forced_call_has_a_grammar():
    server = Server(make_chunk(CALL, finish="stop"))
    await post(server, tools=[TOOL], tool_choice={"type": "tool", "name": "look"})
    (grammar,) = server.grammars.checked
    assert "look" in grammar.structural_tag


async def test_format_has_a_grammar():
    server = Server(make_chunk("{}", finish="stop"))
    schema = {"type": "object", "properties": {"cats": {"type": "integer"}}}
    json_format = {"type": "json_schema", "schema": schema}
    await post(server, output_config={"format": json_format})
    (grammar,) = server.grammars.checked
    assert "cats" in grammar.structural_tag


async def test_choice_of_a_tool_that_is_not_given_is_named():
    response = await post(Server(), tools=[TOOL], tool_choice={"type": "tool", "name": "jump"})
    message = assert_error(
        response, 400, "invalid_request_error", "invalid_value", "tool_choice.name"
    )
    assert "`tool_choice.name`" in message


async def test_hybrid_checkpoint_does_not_think_unless_it_is_asked_to():
    server = Server(THOUGHT, renderer=FakeRenderer("hybrid"))
    await post(server)
    await post(server, thinking={"type": "disabled"})
    await post(server, thinking={"type": "adaptive"})
    await post(server, thinking=ENABLED)
    await post(server, chat_template_kwargs={"enable_thinking": True})
    assert [thinking for _, thinking in server.renderer.calls] == [False, False, True, True, True]


async def test_thinking_is_a_block_before_the_text():
    server = Server(THOUGHT, renderer=FakeRenderer("thinking"))
    thinking, text = (await post(server, thinking=ENABLED)).json()["content"]
    assert (thinking["type"], thinking["thinking"]) == ("thinking", "Fur.")
    assert isinstance(thinking["signature"], str)
    assert text == {"type": "text", "text": "A cat."}


@pytest.mark.parametrize("fields", [{}, {"thinking": {"type": "adaptive", "display": "omitted"}}])
async def test_thinking_checkpoint_thinks_unseen(fields):
    server = Server(THOUGHT, renderer=FakeRenderer("thinking"))
    body = (await post(server, **fields)).json()
    assert server.engine.requests[0].starts_in_reasoning
    assert body["content"] == [{"type": "text", "text": "A cat."}]
    events = await read_events(server, **fields)
    assert {e["content_block"]["type"] for e in events if "content_block" in e} == {"text"}


async def test_thinking_comes_back_as_reasoning():
    server = Server(THOUGHT, renderer=FakeRenderer("thinking"))
    first = (await post(server, thinking=ENABLED)).json()
    turns = [("user", "hi"), ("assistant", first["content"]), ("user", "sure?")]
    messages = [{"role": role, "content": content} for role, content in turns]
    await post(server, messages=messages, thinking=ENABLED)
    assert server.renderer.calls[1][0][1] == {
        "role": "assistant",
        "content": "A cat.",
        "reasoning_content": "Fur.",
    }


async def test_tokens_are_counted_as_they_are_used():
    server = Server(make_chunk("A cat.", finish="stop"))
    content = [make_media("image", IMAGE_URL), {"type": "text", "text": "what is this"}]
    fields = {"system": "Be brief.", "tools": [TOOL]}
    counted = await count(server, content, **fields)
    used = (await post(server, content, **fields)).json()["usage"]["input_tokens"]
    assert counted.json() == {"input_tokens": used}
    assert used > 5
    assert len(server.engine.requests) == 1


async def test_count_prefers_no_thinking_as_the_answer_does():
    server = Server(renderer=FakeRenderer("hybrid"))
    await count(server)
    await count(server, thinking=ENABLED)
    assert [thinking for _, thinking in server.renderer.calls] == [False, True]


async def test_faulty_count_has_anthropics_error():
    response = await count(Server(), [{"type": "document"}])
    param = "messages[0].content[0]"
    assert_error(response, 400, "invalid_request_error", "invalid_value", param)
    response = await count(Server(), [make_media("image", CORRUPT_URL)], system="Be brief.")
    param = "messages[0].content[0].source.data"
    assert_error(response, 422, "invalid_request_error", "image_corrupt", param)
