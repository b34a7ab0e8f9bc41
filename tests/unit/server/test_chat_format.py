"""Deltas as OpenAI's objects: whole answers and streams, event by event."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from server.answer import PromptUsage, Usage
from server.answer_parts import (
    AnswerPart,
    ContentText,
    ReasoningText,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallFailed,
    ToolCallStart,
)
from server.chat_format import ChatFormat
from server.choice import Delta
from server.engine import TokenLogprob
from tests.fake_backend import make_body, parse_chat

LOGPROB = TokenLogprob(7, b"A", -0.5, top=(TokenLogprob(8, "é".encode()[:1], -2.5),))
LOGPROBS = {
    "content": [
        {
            "token": "A",
            "logprob": -0.5,
            "bytes": [65],
            "top_logprobs": [{"token": "\ufffd", "logprob": -2.5, "bytes": [195]}],
        }
    ],
    "refusal": None,
}
USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 5,
    "total_tokens": 14,
    "prompt_tokens_details": {"cached_tokens": 3, "image_tokens": 4, "video_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 1},
}
ALL_PARTS: tuple[AnswerPart, ...] = (
    ReasoningText("hm"),
    ContentText("I look."),
    ToolCallStart(0, "call_a", "look"),
    ToolCallArguments(0, '{"x"'),
    ToolCallArguments(0, ": 1}"),
    ToolCallEnd(0),
    ToolCallStart(1, "call_b", "go"),
    ToolCallArguments(1, '{"y'),
    ToolCallFailed(1, '<tool_call>{"name": "go", "arguments": {"y'),
)


@dataclass
class Told:
    """What a format asks of an answer."""

    num_choices: int = 1
    can_reason: bool = False
    still_reasoning: Sequence[int] = ()
    sources: tuple[str, ...] | None = None
    num_completion_tokens: int = 5

    def is_reasoning(self, index: int) -> bool:
        return index in self.still_reasoning

    @property
    def usage(self) -> Usage:
        return Usage(PromptUsage(9, 4, 2), 3, self.num_completion_tokens, 1, self.sources)


async def iterate(deltas: Sequence[Delta]) -> AsyncIterator[Delta]:
    for delta in deltas:
        yield delta


def make_format(**fields: Any) -> ChatFormat:
    return ChatFormat(parse_chat(orjson.dumps(make_body(**fields))), "qwen")


async def collect(answer: Told, *deltas: Delta, **fields: Any) -> dict[str, Any]:
    body = await make_format(**fields).collect(answer, iterate(deltas))
    return {name: value for name, value in body.items() if name not in ("id", "created")}


async def stream(answer: Told, *deltas: Delta, **fields: Any) -> list[dict[str, Any]]:
    encoded = make_format(stream=True, **fields).iterate_events(answer, iterate(deltas))
    events = b"".join([event async for event in encoded]).decode()
    assert events.endswith("\n\n")
    decoded = [orjson.loads(e.removeprefix("data: ")) for e in events.split("\n\n") if e]
    heads = [{name: event.pop(name) for name in ("id", "created", "model")} for event in decoded]
    assert all(head == heads[0] for head in heads)
    assert all(event.pop("object") == "chat.completion.chunk" for event in decoded)
    return decoded


def chunk(delta: dict[str, Any], *, index: int = 0, **fields: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
    return {"choices": [choice | fields]}


def call(index: int, **fields: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": index, **fields}]}


def begin(index: int, call_id: str, name: str) -> dict[str, Any]:
    return call(index, id=call_id, type="function", function={"name": name, "arguments": ""})


def go_on(index: int, arguments: str) -> dict[str, Any]:
    return call(index, function={"arguments": arguments})


ROLE = {"role": "assistant", "content": ""}


async def test_a_whole_answer_of_every_part() -> None:
    deltas = [
        Delta(0, ALL_PARTS[:4], (LOGPROB,), num_tokens=1),
        Delta(0, ALL_PARTS[4:], finish_reason="tool_calls", num_tokens=4),
    ]
    function = {"name": "look", "arguments": '{"x": 1}'}
    assert await collect(Told(can_reason=True), *deltas, logprobs=True) == {
        "object": "chat.completion",
        "model": "qwen",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": 'I look.<tool_call>{"name": "go", "arguments": {"y',
                    "refusal": None,
                    "reasoning_content": "hm",
                    "reasoning": "hm",
                    "tool_calls": [{"id": "call_a", "type": "function", "function": function}],
                },
                "logprobs": LOGPROBS,
                "finish_reason": "tool_calls",
            }
        ],
        "usage": USAGE,
    }


async def test_a_stream_of_every_part() -> None:
    deltas = [
        Delta(0, ALL_PARTS[:4], (LOGPROB,)),
        Delta(0, ALL_PARTS[4:], (LOGPROB,), finish_reason="tool_calls"),
    ]
    assert await stream(Told(can_reason=True), *deltas, logprobs=True) == [
        chunk(ROLE),
        chunk({"reasoning_content": "hm", "reasoning": "hm"}, logprobs=LOGPROBS),
        chunk({"content": "I look."}),
        chunk(begin(0, "call_a", "look")),
        chunk(go_on(0, '{"x"')),
        chunk(go_on(0, ": 1}"), logprobs=LOGPROBS),
        chunk(begin(1, "call_b", "go")),
        chunk(go_on(1, '{"y')),
        chunk({"content": '<tool_call>{"name": "go", "arguments": {"y'}),
        chunk({}, finish_reason="tool_calls"),
    ]


@pytest.mark.parametrize(
    ("parts", "content"),
    [((), ""), (ALL_PARTS[2:6], None), (ALL_PARTS[6:], ALL_PARTS[-1].raw)],
    ids=["nothing", "a call", "a failed call"],
)
async def test_content_is_null_only_beside_calls(
    parts: tuple[AnswerPart, ...], content: str | None
) -> None:
    body = await collect(Told(), Delta(0, parts, finish_reason="stop"))
    assert body["choices"][0]["message"]["content"] == content


async def test_content_is_null_for_the_choice_that_is_cut_in_its_reasoning() -> None:
    deltas = [Delta(i, (ReasoningText("hm"),), finish_reason="length") for i in range(2)]
    body = await collect(Told(num_choices=2, can_reason=True, still_reasoning=[1]), *deltas)
    contents = [choice["message"]["content"] for choice in body["choices"]]
    assert contents == ["", None]


async def test_reasoning_is_null_if_there_is_none() -> None:
    body = await collect(Told(can_reason=True), Delta(0, (), finish_reason="stop"))
    message = body["choices"][0]["message"]
    assert (message["reasoning"], message["reasoning_content"]) == (None, None)


async def test_choices_of_a_stream_begin_with_their_roles() -> None:
    deltas = [
        Delta(1, (ContentText("b"),)),
        Delta(0, (ContentText("a"),), finish_reason="stop"),
        Delta(1, (), finish_reason="length"),
    ]
    assert await stream(Told(num_choices=2), *deltas) == [
        chunk(ROLE, index=0),
        chunk(ROLE, index=1),
        chunk({"content": "b"}, index=1),
        chunk({"content": "a"}, index=0),
        chunk({}, index=0, finish_reason="stop"),
        chunk({}, index=1, finish_reason="length"),
    ]


async def test_logprobs_without_text_have_an_event() -> None:
    deltas = [Delta(0, (), (LOGPROB,)), Delta(0, (), finish_reason="stop")]
    events = await stream(Told(), *deltas, logprobs=True)
    assert events[1] == chunk({}, logprobs=LOGPROBS)


async def test_a_delta_without_news_has_no_event() -> None:
    deltas = [Delta(0, ()), Delta(0, (ToolCallEnd(0),)), Delta(0, (), finish_reason="stop")]
    assert len(await stream(Told(), *deltas)) == 2


async def test_usage_ends_a_stream_and_is_null_before() -> None:
    deltas = [Delta(0, (ContentText("a"),), finish_reason="stop")]
    events = await stream(Told(), *deltas, stream_options={"include_usage": True})
    assert events == [
        {**chunk(ROLE), "usage": None},
        {**chunk({"content": "a"}), "usage": None},
        {**chunk({}, finish_reason="stop"), "usage": None},
        {"choices": [], "usage": USAGE},
    ]


async def test_continuous_usage_is_that_of_the_moment() -> None:
    answer = Told(num_completion_tokens=0)

    async def count() -> AsyncIterator[Delta]:
        for finish_reason in (None, "stop"):
            answer.num_completion_tokens += 2
            yield Delta(0, (ContentText("a"),), finish_reason=finish_reason)

    options = {"include_usage": True, "continuous_usage_stats": True}
    encoded = make_format(stream=True, stream_options=options).iterate_events(answer, count())
    events = b"".join([event async for event in encoded]).decode().split("\n\n")[:-1]
    usages = [orjson.loads(event.removeprefix("data: "))["usage"] for event in events]
    assert [usage["completion_tokens"] for usage in usages] == [2, 2, 4, 4, 4]


async def test_sources_of_the_items_are_told_if_the_answer_does() -> None:
    body = await collect(Told(sources=("encoded",)), Delta(0, (), finish_reason="stop"))
    assert body["usage"]["prompt_tokens_details"]["item_sources"] == ["encoded"]


def test_a_failure_is_an_event_with_the_error() -> None:
    assert make_format().describe_failure({"error": {"code": "x"}}, 500) == (
        b'data: {"error":{"code":"x"}}\n\n'
    )


def test_every_answer_has_its_own_id() -> None:
    ids = {make_format().answer_id for _ in range(3)}
    assert len(ids) == 3 and all(answer_id.startswith("chatcmpl-") for answer_id in ids)
