"""Whole and streamed responses, as the official client's models have them."""

import json
import re
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import openai.types.responses as official
import pytest
from pydantic import TypeAdapter

from server.answer import Answer, PromptUsage
from server.choice import ChoiceReader
from server.engine import GenerationChunk, TokenLogprob
from server.errors import EngineFailed, describe_error
from server.reasoning import ReasoningSplitter
from server.responses.format import Keeper, ResponsesFormat
from server.responses.protocol import ResponsesRequest
from server.responses.store import ResponseStore
from server.tools.tool_calls import ToolCallParser
from tests.fake_engine import CLOSE_ID, make_chunk

GOLDENS = Path(__file__).parent / "goldens"
EVENT = TypeAdapter(official.ResponseStreamEvent)
REQUEST = {
    "instructions": "Be brief.",
    "max_output_tokens": 40,
    "metadata": {"a": "b"},
    "parallel_tool_calls": False,
    "reasoning": {"effort": "low"},
    "temperature": 0.5,
    "text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}},
    "tool_choice": {"type": "function", "name": "f"},
    "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}],
    "top_p": 0.9,
    "user": "somebody",
}
CALL = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
BROKEN_CALL = '<tool_call>\n{"name": "f", "arguments": {"x": !}}\n</tool_call>'
ANSWERS: dict[str, list[GenerationChunk]] = {
    "text": [make_chunk("A "), make_chunk("cat."), make_chunk("", finish="stop")],
    "reasoning": [make_chunk("I see"), make_chunk("</think>\n\nA cat.", finish="stop")],
    "call": [make_chunk("Let me look. " + CALL[:50]), make_chunk(CALL[50:], finish="stop")],
    "broken_call": [make_chunk(BROKEN_CALL, finish="stop")],
    "cut": [make_chunk("A "), make_chunk("cat", finish="length")],
    "cut_reasoning": [make_chunk("I see", finish="length")],
    "nothing": [make_chunk("", finish="stop")],
}


def make_request(**fields: Any) -> ResponsesRequest:
    return ResponsesRequest.model_validate({"model": "qwen", "input": "hi", **fields})


def make_answer(name: str) -> Answer:
    ids = iter(f"call_{number}" for number in range(100))
    choice = ChoiceReader(
        0,
        splitter=ReasoningSplitter(CLOSE_ID) if "reasoning" in name else None,
        tools=ToolCallParser({"f"}, lambda: next(ids)) if "call" in name else None,
    )
    return Answer(PromptUsage(12, 4), [choice], tells_sources=True)


async def play(chunks: Sequence[GenerationChunk]) -> AsyncGenerator[GenerationChunk, None]:
    for chunk in chunks:
        yield chunk


async def collect(
    name: str, chunks: Sequence[GenerationChunk] = (), keeper: Keeper | None = None, **fields: Any
) -> dict[str, Any]:
    answer = make_answer(name)
    deltas = answer.read([play(chunks or ANSWERS[name])])
    response = await ResponsesFormat(make_request(**fields), "qwen", keeper).collect(answer, deltas)
    official.Response.model_validate(response, strict=True)
    return response


async def stream(
    name: str, chunks: Sequence[GenerationChunk] = (), keeper: Keeper | None = None, **fields: Any
) -> list[dict[str, Any]]:
    """The events of a stream, which must be what the client knows, and numbered."""
    answer = make_answer(name)
    writer = ResponsesFormat(make_request(**fields), "qwen", keeper)
    deltas = answer.read([play(chunks or ANSWERS[name])])
    try:
        writes = [write async for write in writer.iterate_events(answer, deltas)]
    except EngineFailed as error:
        writes = [writer.describe_failure(describe_error(error, "r").body, 500)]
    return read_events(b"".join((*writes, writer.last_event)))


def read_events(body: bytes) -> list[dict[str, Any]]:
    *texts, rest = body.decode().split("\n\n")
    assert rest == ""
    events = []
    for text in texts:
        name, data = text.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        EVENT.validate_python(event)
        events.append(event)
    return events


def assert_golden(name: str, value: Any) -> None:
    """Ids are numbered as they come, and times are 0."""
    text = re.sub(r'("(?:created|completed)_at"): \d+', r"\1: 0", json.dumps(value))
    numbers: dict[str, str] = {}

    def rename(match: re.Match[str]) -> str:
        return numbers.setdefault(match[0], f"{match[1]}_{len(numbers)}")

    text = re.sub(r"\b(resp|rs|msg|fc)_[0-9a-f]{32}", rename, text)
    golden = GOLDENS / f"responses_{name}.json"
    assert json.loads(text) == json.loads(golden.read_text())


@pytest.mark.parametrize("name", ANSWERS)
async def test_whole_response_is_as_before(name):
    assert_golden(f"whole_{name}", await collect(name, **REQUEST))


@pytest.mark.parametrize("name", ANSWERS)
async def test_stream_is_as_before(name):
    assert_golden(f"stream_{name}", await stream(name))


async def test_stream_that_fails_is_as_before():
    answer = make_answer("reasoning")
    writer = ResponsesFormat(make_request(), "qwen", None)
    chunks = [make_chunk("I see</think>A "), make_chunk("", finish="error")]
    writes = []
    with pytest.raises(EngineFailed) as caught:
        async for write in writer.iterate_events(answer, answer.read([play(chunks)])):
            writes.append(write)
    writes.append(writer.describe_failure(describe_error(caught.value, "r").body, 500))
    assert_golden("stream_failure", read_events(b"".join(writes)))


@pytest.mark.parametrize("name", ANSWERS)
async def test_events_are_numbered(name):
    numbers = [event["sequence_number"] for event in await stream(name)]
    assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize("name", ANSWERS)
async def test_deltas_make_what_is_done(name):
    """Whoever adds up the deltas gets the items of the end, which are those of the response."""
    events = await stream(name)
    texts: dict[str, str] = {}
    for event in events:
        if event["type"].endswith(".delta"):
            texts[event["item_id"]] = texts.get(event["item_id"], "") + event["delta"]
    output = events[-1]["response"]["output"]
    assert [e["item"] for e in events if e["type"] == "response.output_item.done"] == output
    for item in output:
        written = item["arguments"] if "arguments" in item else item["content"][0]["text"]
        assert texts.get(item["id"], "") == written


@pytest.mark.parametrize("name", [name for name in ANSWERS if name != "broken_call"])
async def test_stream_ends_with_the_whole_response(name):
    whole, streamed = await collect(name), (await stream(name))[-1]["response"]
    for response in (whole, streamed):
        for item in (response, *response["output"]):
            del item["id"]
        response["created_at"] = response["completed_at"] = 0
    assert streamed == whole


async def test_nothing_is_sent_before_the_first_delta():
    async def fail() -> AsyncGenerator[GenerationChunk, None]:
        raise EngineFailed("no", "engine_error")
        yield

    answer = make_answer("text")
    events = ResponsesFormat(make_request(), "qwen", None).iterate_events(
        answer, answer.read([fail()])
    )
    with pytest.raises(EngineFailed):
        await anext(events)


async def test_first_delta_comes_in_the_first_write():
    answer = make_answer("text")
    deltas = answer.read([play(ANSWERS["text"])])
    events = ResponsesFormat(make_request(), "qwen", None).iterate_events(answer, deltas)
    first = read_events(await anext(events))
    assert [first[0]["type"], first[-1]["type"]] == [
        "response.created",
        "response.output_text.delta",
    ]


def make_tokens(*words: str) -> tuple[TokenLogprob, ...]:
    return tuple(
        TokenLogprob(n, word.encode(), -1.0, (TokenLogprob(n, word.encode(), -1.0),))
        for n, word in enumerate(words)
    )


def make_word_chunk(*words: str, finish: str | None = None) -> GenerationChunk:
    ids = tuple(CLOSE_ID if word == "</think>" else 1 for word in words)
    return make_chunk("".join(words), token_ids=ids, logprobs=make_tokens(*words), finish=finish)


INCLUDED = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}


@pytest.mark.parametrize(
    "chunks",
    [
        [["I", " see"], ["</think>"], ["\n\n"], ["A"], [" cat"]],
        [["I"], [" see", "</think>", "\n\n", "A"], [" cat"]],
    ],
)
async def test_tokens_of_reasoning_are_left_out_of_the_logprobs(chunks):
    chunks = [make_word_chunk(*words) for words in chunks] + [make_chunk("", finish="stop")]
    whole = await collect("reasoning", chunks, **INCLUDED)
    events = await stream("reasoning", chunks, **INCLUDED)
    for response in (whole, events[-1]["response"]):
        entries = response["output"][1]["content"][0]["logprobs"]
        assert [entry["token"] for entry in entries] == ["\n\n", "A", " cat"]
    deltas = [e["logprobs"] for e in events if e["type"] == "response.output_text.delta"]
    assert [entry for delta in deltas for entry in delta] == entries
    assert entries[1] == {
        "token": "A",
        "logprob": -1.0,
        "bytes": [65],
        "top_logprobs": [{"token": "A", "logprob": -1.0, "bytes": [65]}],
    }


async def test_tokens_of_calls_are_left_out_of_the_logprobs():
    words = ["Look", "<tool_call>", '{"name": "f", "arguments": {', "}}", "</tool_call>"]
    chunks = [make_word_chunk(word) for word in words] + [make_chunk("", finish="stop")]
    output = (await collect("call", chunks, **INCLUDED))["output"]
    assert [entry["token"] for entry in output[0]["content"][0]["logprobs"]] == ["Look"]
    assert output[1]["arguments"] == "{}"


async def test_logprobs_are_left_out_unless_included():
    response = await collect("text", [make_word_chunk("A", finish="stop")], top_logprobs=1)
    assert response["output"][0]["content"][0]["logprobs"] == []


async def test_text_behind_a_call_is_an_item_of_its_own_in_a_stream():
    chunks = [make_chunk(CALL + "\nDone.", finish="stop")]
    types = [item["type"] for item in (await stream("call", chunks))[-1]["response"]["output"]]
    assert types == ["function_call", "message"]


async def test_request_is_echoed():
    response = await collect("text", **REQUEST)
    assert {name: response[name] for name in REQUEST if name not in ("text", "tools")} == {
        name: value for name, value in REQUEST.items() if name not in ("text", "tools")
    } | {"reasoning": {"effort": "low", "summary": None}}
    assert response["tools"] == [{**REQUEST["tools"][0], "description": None}]
    assert response["text"]["format"]["schema"] == {"type": "object"}


def make_keeper(max_bytes: int = 100_000) -> Keeper:
    return Keeper(ResponseStore(max_bytes, 60.0), "tenant", ())


@pytest.mark.parametrize("name", ANSWERS)
async def test_kept_answer_is_one_message(name):
    keeper = make_keeper()
    streamed = (await stream(name, keeper=keeper))[-1]["response"]
    whole = await collect(name, keeper=keeper)
    answers = []
    for response in (streamed, whole):
        kept = keeper.store.get("tenant", response["id"])
        assert json.loads(kept.body) == response
        assert response["store"] is True
        (answer,) = kept.messages
        answers.append(answer)
    assert answers[0] == answers[1]


async def test_kept_answer_has_reasoning_text_and_calls():
    keeper = make_keeper()
    response = await collect("reasoning", keeper=keeper)
    (answer,) = keeper.store.get("tenant", response["id"]).messages
    assert (answer.reasoning_content, answer.content) == ("I see", "A cat.")
    response = await stream("call", keeper=keeper)
    (answer,) = keeper.store.get("tenant", response[-1]["response"]["id"]).messages
    assert answer.content == "Let me look. "
    assert answer.tool_calls[0].function.arguments == '{"x": 1}'


async def test_response_that_does_not_fit_says_that_it_is_not_kept():
    keeper = make_keeper(max_bytes=10)
    response = await collect("text", keeper=keeper)
    assert response["store"] is False
    assert keeper.store.get("tenant", response["id"]) is None


async def test_failed_stream_is_not_kept():
    keeper = make_keeper()
    await stream("text", [make_chunk("A"), make_chunk("", finish="error")], keeper)
    assert keeper.store.num_bytes == 0
