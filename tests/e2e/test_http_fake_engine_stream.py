"""Streams over ASGI, without a model."""

import asyncio
from typing import Any

import orjson
import pytest

from server.engine import EngineDead, InvalidSampling, TokenLogprob
from tests.fake_backend import CORRUPT_URL, FakeRenderer, Server, assert_error, image_part
from tests.fake_engine import make_chunk

CAT = (make_chunk("A "), make_chunk("cat."), make_chunk("", token_ids=(1,), finish="stop"))


async def stream(server: Server, content: Any = "hi", **fields: Any) -> list[dict[str, Any]]:
    """The events of a stream, which must end with `[DONE]`."""
    response = await server.post(content, stream=True, **fields)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    assert all(event.startswith("data: ") for event in events)
    return [orjson.loads(event.removeprefix("data: ")) for event in events]


def find_choices(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [choice for event in events for choice in event["choices"]]


def join(events: list[dict[str, Any]], name: str, index: int = 0) -> str:
    choices = [choice for choice in find_choices(events) if choice["index"] == index]
    return "".join(choice["delta"].get(name) or "" for choice in choices)


async def test_stream_has_the_openai_shape():
    events = await stream(Server(*CAT))
    heads = [{key: event.pop(key) for key in ("id", "created")} for event in events]
    assert all(head == heads[0] for head in heads)

    def chunk(delta, finish_reason=None):
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {"object": "chat.completion.chunk", "model": "qwen", "choices": [choice]}

    assert events == [
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "A "}),
        chunk({"content": "cat."}),
        chunk({}, "stop"),
    ]


async def test_usage_comes_last_without_choices():
    *before, last = await stream(Server(*CAT), stream_options={"include_usage": True})
    assert all(event["usage"] is None for event in before)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 3


async def test_usage_of_a_stream_equals_that_of_a_whole_answer():
    server = Server(*CAT)
    streamed = (await stream(server, [image_part()], stream_options={"include_usage": True}))[-1]
    whole = (await server.post([image_part()])).json()
    assert streamed["usage"] == whole["usage"]


async def test_usage_is_left_out_unless_asked_for():
    assert all("usage" not in event for event in await stream(Server(*CAT)))


async def test_choices_are_interleaved_by_index():
    server, is_first_over = Server(), asyncio.Event()
    server.engine.scripts = [
        [make_chunk("one", finish="stop")],
        [make_chunk("two "), is_first_over, make_chunk("more", finish="length")],
    ]

    async def end_first():
        while len(server.engine.requests) < 2:
            await asyncio.sleep(0)
        is_first_over.set()

    ending = asyncio.create_task(end_first())
    events = await stream(server, n=2)
    await ending
    assert (join(events, "content", 0), join(events, "content", 1)) == ("one", "two more")
    finished = {c["index"]: c["finish_reason"] for c in find_choices(events) if c["finish_reason"]}
    assert finished == {0: "stop", 1: "length"}
    roles = [c["index"] for c in find_choices(events) if "role" in c["delta"]]
    assert sorted(roles) == [0, 1]


async def test_error_of_one_choice_in_mid_stream_ends_all():
    server = Server()
    server.engine.scripts = [
        [make_chunk("A "), asyncio.Event()],
        [make_chunk("B "), RuntimeError()],
    ]
    events = await stream(server, n=2)
    assert events[-1]["error"]["code"] == "internal_error"
    assert len(server.engine.aborted) == 2


async def test_usage_of_every_chunk_grows():
    options = {"include_usage": True, "continuous_usage_stats": True}
    events = await stream(Server(*CAT), stream_options=options)
    counts = [event["usage"]["completion_tokens"] for event in events]
    assert counts == [1, 1, 2, 3, 3]  # the role, two texts, the end, the usage
    assert events[-1]["choices"] == []


async def test_tool_call_is_streamed_in_pieces():
    tool = {"type": "function", "function": {"name": "look"}}
    pieces = ["Hm.\n<tool_", 'call>\n{"name": "look", "argu', 'ments": {"x"', ": 1}}\n</tool_call>"]
    script = [make_chunk(piece) for piece in pieces] + [make_chunk("", finish="stop")]
    events = await stream(Server(*script), tools=[tool])
    assert join(events, "content") == "Hm."
    calls = [
        c["delta"]["tool_calls"][0] for c in find_choices(events) if "tool_calls" in c["delta"]
    ]
    assert calls[0]["id"].startswith("call_") and calls[0]["type"] == "function"
    assert calls[0]["function"] == {"name": "look", "arguments": ""}
    assert {call["index"] for call in calls} == {0}
    assert all(set(call) == {"index", "function"} for call in calls[1:])
    assert "".join(call["function"]["arguments"] for call in calls) == '{"x": 1}'
    assert find_choices(events)[-1]["finish_reason"] == "tool_calls"


async def test_reasoning_comes_before_content():
    pieces = ["I s", "ee\n", "</think>\n", "\nA c", "at."]
    renderer = FakeRenderer("thinking")
    script = [make_chunk(piece) for piece in pieces] + [make_chunk("", finish="stop")]
    events = await stream(Server(*script, renderer=renderer))
    assert join(events, "content") == "A cat."
    assert join(events, "reasoning_content") == join(events, "reasoning") == "I see"


async def test_held_back_text_comes_with_the_end():
    renderer = FakeRenderer("thinking")
    script = (make_chunk("I see\n\n"), make_chunk("", finish="length"))
    events = await stream(Server(*script, renderer=renderer))
    assert join(events, "reasoning") == "I see\n\n"
    assert events[-1]["choices"][0]["finish_reason"] == "length"


async def test_instruct_stream_has_no_reasoning_fields():
    events = await stream(Server(make_chunk("<think>x", finish="stop")))
    assert join(events, "content") == "<think>x"
    assert not any("reasoning" in choice["delta"] for choice in find_choices(events))


async def test_every_logprob_is_sent_even_while_text_is_held_back():
    tokens = [TokenLogprob(index, str(index).encode(), -1.0) for index in range(3)]
    script = [make_chunk("" if i == 1 else "x", logprobs=(t,)) for i, t in enumerate(tokens)]
    events = await stream(Server(*script, make_chunk("", finish="stop")), logprobs=True)
    sent = [c["logprobs"]["content"][0]["token"] for c in find_choices(events) if c["logprobs"]]
    assert sent == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("error", "code"),
    [(EngineDead(), "engine_dead"), (RuntimeError("/secret"), "internal_error")],
)
async def test_error_in_mid_stream_is_an_event(error, code):
    server = Server(make_chunk("A "), error)
    events = await stream(server)
    assert events[-1]["error"]["code"] == code
    assert "secret" not in str(events)
    assert server.sample("qwen3vl_requests_total", outcome="error", status="200") == 1


async def test_engine_that_gives_up_in_mid_stream_is_an_event():
    events = await stream(Server(make_chunk("A "), make_chunk("", finish="error")))
    assert events[-1]["error"]["code"] == "engine_error"


async def test_error_before_the_first_token_keeps_its_status():
    response = await Server(InvalidSampling("no such token")).post(stream=True)
    assert_error(response, 400, "invalid_sampling")


async def test_media_are_loaded_before_the_stream_begins():
    response = await Server().post([image_part(CORRUPT_URL)], stream=True)
    assert_error(response, 422, "image_corrupt", "messages[0].content[0].image_url")


async def test_stream_that_ends_well_is_done():
    server = Server(*CAT)
    await stream(server)
    assert server.sample("qwen3vl_requests_total", outcome="done", status="200") == 1
    assert server.engine.aborted == []
