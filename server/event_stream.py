"""Sends the events of an answer; what fails before the first one still gets its own status."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

from starlette.requests import ClientDisconnect
from starlette.types import Send

from server.answer_format import AnswerFormat
from server.errors import describe_error
from server.request_log import add_fields

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would collect the events otherwise
]


async def send_event_stream(
    send: Send,
    events: AsyncIterator[bytes],
    answer_format: AnswerFormat,
    request_id: str,
    limit: Callable[[], AbstractAsyncContextManager[None]],
) -> Exception | None:
    """Send a 200 response and the events; the first one is awaited before anything is sent.

    Later the status is gone: an error is sent as an event, before the last one.

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
        answer = describe_error(error, request_id)
        add_fields(code=answer.body["error"]["code"])
        await _send_body(send, answer_format.describe_failure(answer.body, answer.status))
    await send({"type": "http.response.body", "body": answer_format.last_event, "more_body": False})
    return failure


async def _send_body(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
