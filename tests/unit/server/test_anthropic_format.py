"""Every object and event that `/v1/messages` sends, held against files in `goldens`."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest

from server.answer import PromptUsage, Usage
from server.answer_parts import (
    ContentText,
    ReasoningText,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallFailed,
    ToolCallStart,
)
from server.anthropic.dialect import describe_count
from server.anthropic.format import AnthropicFormat
from server.choice import Delta
from server.engine import ItemSource

GOLDENS = Path(__file__).parent / "goldens"

TEXT = [Delta(0, (ContentText("A "),)), Delta(0, (ContentText("cat."),), finish_reason="stop")]
THINKING = [
    Delta(0, (ReasoningText("Fur, "),)),
    Delta(0, (ReasoningText("ears."), ContentText("A cat."))),
    Delta(0, (), finish_reason="length"),
]
CALLS = [
    Delta(0, (ContentText("I look."), ToolCallStart(0, "call_1", "look"))),
    Delta(0, (ToolCallArguments(0, '{"at": "the'),)),
    Delta(0, (ToolCallArguments(0, ' cat"}'), ToolCallEnd(0))),
    Delta(0, (ToolCallStart(1, "call_2", "wait"), ToolCallArguments(1, "{}"), ToolCallEnd(1))),
    Delta(0, (), finish_reason="tool_calls"),
]
FAILED_CALL = [
    Delta(0, (ReasoningText("Hm."), ToolCallStart(0, "call_1", "look"))),
    Delta(0, (ToolCallArguments(0, '{"at": '),)),
    Delta(0, (ToolCallFailed(0, '<tool_call>\n{"name": "look", "arguments": {"at": '),)),
    Delta(0, (ContentText("!"),), finish_reason="stop"),
]
STOPPED = [Delta(0, (ContentText("One, "),), finish_reason="stop", stop="two")]
EMPTY = [Delta(0, (), finish_reason="stop")]
ANSWERS = {
    "text": TEXT,
    "thinking": THINKING,
    "calls": CALLS,
    "failed_call": FAILED_CALL,
    "stopped": STOPPED,
    "empty": EMPTY,
}


def make_format(shows_thinking=True) -> AnthropicFormat:
    return AnthropicFormat("qwen", shows_thinking=shows_thinking)


def make_answer(item_sources=None) -> SimpleNamespace:
    return SimpleNamespace(usage=Usage(PromptUsage(10), 4, 3, 1, item_sources))


async def replay(deltas):
    for delta in deltas:
        yield delta


def read_golden(name: str, written: object, answer_id: str = "msg_1") -> tuple[object, object]:
    """What was written, with a fixed id, and what the golden file holds."""
    text = orjson.dumps(written).decode().replace(answer_id, "msg_1")
    return json.loads(text), json.loads((GOLDENS / f"anthropic_{name}.json").read_text())


async def collect(deltas, answer_format, answer=None) -> dict:
    body = await answer_format.collect(answer or make_answer(), replay(deltas))
    return orjson.loads(orjson.dumps(body))


async def read_stream(deltas, answer_format) -> list[dict]:
    """The events' data; each event is named as its data says."""
    pieces = [piece async for piece in answer_format.iterate_events(make_answer(), replay(deltas))]
    return read_events(b"".join(pieces))


def read_events(text: bytes) -> list[dict]:
    events = [re.fullmatch(rb"event: (\w+)\ndata: (.*)", e) for e in text.split(b"\n\n")[:-1]]
    data = [orjson.loads(event[2]) for event in events]
    assert [event[1].decode() for event in events] == [d["type"] for d in data]
    return data


@pytest.mark.parametrize("name", ANSWERS)
async def test_whole_answer(name):
    answer_format = make_format()
    body = await collect(ANSWERS[name], answer_format)
    written, golden = read_golden(f"message_{name}", body, answer_format.answer_id)
    assert written == golden


@pytest.mark.parametrize("name", ANSWERS)
async def test_streamed_answer(name):
    answer_format = make_format()
    events = await read_stream(ANSWERS[name], answer_format)
    written, golden = read_golden(f"stream_{name}", events, answer_format.answer_id)
    assert written == golden


@pytest.mark.parametrize("name", sorted(ANSWERS.keys() - {"failed_call"}))
async def test_streamed_blocks_add_up_to_the_whole_answer(name):
    streamed = accumulate(await read_stream(ANSWERS[name], make_format()))
    whole = await collect(ANSWERS[name], make_format())
    assert streamed | {"id": ""} == whole | {"id": ""}


def accumulate(events: list[dict]) -> dict:
    """A message put together as a client does it."""
    start, *rest = events
    message, inputs = start["message"], {}
    for event in rest:
        blocks = message["content"]
        match event:
            case {"type": "content_block_start", "index": index, "content_block": block}:
                assert index == len(blocks)
                blocks.append(block)
            case {"type": "content_block_delta", "index": index, "delta": delta}:
                assert index == len(blocks) - 1
                kind, field = (key for key in sorted(delta, key="type".__ne__))
                if field == "partial_json":
                    inputs[index] = inputs.get(index, "") + delta[field]
                    continue
                assert delta[kind] == f"{field}_delta"
                blocks[index][field] += delta[field]
            case {"type": "content_block_stop", "index": index}:
                assert index == len(blocks) - 1
                if index in inputs:
                    blocks[index]["input"] = json.loads(inputs[index])
            case {"type": "message_delta", "delta": delta, "usage": usage}:
                message |= delta | {"usage": usage}
    assert events[-1] == {"type": "message_stop"}
    return message


async def test_thinking_that_nobody_asked_for_is_left_out():
    events = await read_stream(THINKING, make_format(shows_thinking=False))
    assert [block["type"] for block in accumulate(events)["content"]] == ["text"]
    body = await collect(THINKING, make_format(shows_thinking=False))
    assert body["content"] == [{"type": "text", "text": "A cat."}]


async def test_all_events_of_a_delta_are_one_piece_and_hidden_ones_none():
    hidden = make_format(shows_thinking=False)
    deltas = [Delta(0, (ReasoningText("a"),)), Delta(0, (ReasoningText("b"),)), *TEXT]
    pieces = [piece async for piece in hidden.iterate_events(make_answer(), replay(deltas))]
    kinds = [[event["type"] for event in read_events(piece)] for piece in pieces]
    assert kinds == [
        ["message_start"],
        ["content_block_start", "content_block_delta"],
        ["content_block_delta", "content_block_stop", "message_delta", "message_stop"],
    ]


async def test_nothing_is_sent_before_the_first_delta():
    events = make_format().iterate_events(make_answer(), replay([]))
    assert [piece async for piece in events] == []


async def test_text_is_escaped_in_events():
    text = 'a "quote",\na line, \x00 and é'
    deltas = [Delta(0, (ContentText(text),), finish_reason="stop")]
    assert accumulate(await read_stream(deltas, make_format()))["content"][0]["text"] == text


async def test_input_of_a_call_keeps_numbers_that_no_parser_would():
    call = (ToolCallStart(0, "c", "f"), ToolCallArguments(0, '{"n": 123456789012345678901}'))
    deltas = [Delta(0, (*call, ToolCallEnd(0)), finish_reason="tool_calls")]
    body = await make_format().collect(make_answer(), replay(deltas))
    assert b'"input":{"n": 123456789012345678901}' in orjson.dumps(body)


async def test_a_call_ends_the_answer_even_if_a_stop_string_does_too():
    deltas = [*CALLS[:-1], Delta(0, (), finish_reason="tool_calls", stop="two")]
    body = await collect(deltas, make_format())
    assert (body["stop_reason"], body["stop_sequence"]) == ("tool_use", None)


async def test_item_sources_are_told_to_those_who_ask():
    sources: tuple[ItemSource, ...] = ("encoded", "device")
    body = await collect(TEXT, make_format(), make_answer(sources))
    assert body["usage"]["item_sources"] == ["encoded", "device"]


def test_ids_differ():
    assert make_format().answer_id != make_format().answer_id


@pytest.mark.parametrize(
    ("kind", "status"), [("invalid_request_error", 400), ("server_error", 500)]
)
def test_error_in_mid_stream(kind, status):
    error = {"message": "the engine gave up", "type": kind, "param": None, "code": "engine_error"}
    (event,) = read_events(make_format().describe_failure({"error": error}, status))
    written, golden = read_golden(f"stream_error_{kind}", event)
    assert written == golden


def test_a_stream_ends_with_no_event_of_its_own():
    assert make_format().last_event == b""


def test_count():
    written, golden = read_golden("count", describe_count(12))
    assert written == golden
