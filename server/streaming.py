"""An answer as server-sent events: the OpenAI objects `chat.completion.chunk`."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import orjson
from starlette.requests import ClientDisconnect
from starlette.types import Send

from server.answer import Answer, Delta, describe_logprobs
from server.completion import CompletionHead
from server.errors import describe_error

DONE = b"data: [DONE]\n\n"
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would collect the events otherwise
]


async def send_event_stream(
    send: Send,
    events: AsyncIterator[bytes],
    request_id: str,
    limit: Callable[[], AbstractAsyncContextManager[None]],
) -> Exception | None:
    """Send a 200 response and the events; the first one is awaited before anything is sent.

    So whatever fails before the first token still gets its own status. Later the status is gone:
    the error is sent as an event, and `[DONE]`.

    Args:
        limit: made and entered while events are awaited and sent; what it raises ends them.
    Returns: that error, if any.
    Raises: ClientDisconnect if `send` does.
    """
    async with limit():
        first = await anext(events)
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await _send_body(send, first)
    failure = None
    try:
        async with limit():
            async for event in events:
                await _send_body(send, event)
    except ClientDisconnect:
        raise
    except Exception as error:
        failure = error
        await _send_body(send, _encode(describe_error(error, request_id).body))
    await send({"type": "http.response.body", "body": DONE, "more_body": False})
    return failure


async def iterate_events(
    head: CompletionHead,
    answer: Answer,
    deltas: AsyncIterator[Delta],
    *,
    with_logprobs: bool,
    with_usage: bool,
) -> AsyncIterator[bytes]:
    """The events of an answer, without `[DONE]`. Nothing comes before the engine's first output."""
    chunk_head = head.describe("chat.completion.chunk")
    if with_usage:
        chunk_head["usage"] = None
    started = False
    async for delta in deltas:
        if not started:
            started = True
            for index in range(answer.num_choices):
                yield _encode(chunk_head | {"choices": [_describe_start(index)]})
        for choice in _describe_delta(delta, with_logprobs):
            yield _encode(chunk_head | {"choices": [choice]})
    if with_usage:
        yield _encode(chunk_head | {"choices": [], "usage": answer.describe_usage()})


def _describe_start(index: int) -> dict[str, Any]:
    return _describe_choice(index, {"role": "assistant", "content": ""})


def _describe_delta(delta: Delta, with_logprobs: bool) -> list[dict[str, Any]]:
    """Nothing, new text, the end of the choice, or both in this order."""
    message: dict[str, Any] = {}
    if delta.reasoning:
        message |= {"reasoning_content": delta.reasoning, "reasoning": delta.reasoning}
    if delta.content:
        message["content"] = delta.content
    choices = []
    if message or delta.logprobs:
        logprobs = describe_logprobs(delta.logprobs) if with_logprobs else None
        choices.append(_describe_choice(delta.index, message, logprobs))
    if delta.finish_reason is not None:
        choices.append(_describe_choice(delta.index, {}, finish_reason=delta.finish_reason))
    return choices


def _describe_choice(
    index: int,
    message: dict[str, Any],
    logprobs: dict[str, Any] | None = None,
    finish_reason: str | None = None,
) -> dict[str, Any]:
    return {
        "index": index,
        "delta": message,
        "logprobs": logprobs,
        "finish_reason": finish_reason,
    }


def _encode(data: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


async def _send_body(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
