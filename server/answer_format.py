"""What an endpoint must know to write an answer: whole, or as server-sent events."""

from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

import orjson

from server.answer import Answer
from server.choice import Delta


class AnswerFormat(Protocol):
    """One answer of one endpoint.

    Attributes:
        answer_id: unique; the engine's requests are named after it.
        last_event: what a stream ends with, however it ends; may be empty.
    """

    answer_id: str
    last_event: bytes

    async def collect(self, answer: Answer, deltas: AsyncIterator[Delta]) -> dict[str, Any]:
        """Read all deltas and make the response body of them."""
        ...

    def iterate_events(self, answer: Answer, deltas: AsyncIterator[Delta]) -> AsyncIterator[bytes]:
        """The events of a stream, without `last_event`. Nothing comes before the first delta."""
        ...

    def describe_failure(self, body: Mapping[str, Any], status: int) -> bytes:
        """An error in mid-stream: OpenAI's error object, and the status it would have had."""
        ...


def encode_event(data: Mapping[str, Any]) -> bytes:
    """One server-sent event without a name."""
    return b"data: " + orjson.dumps(data) + b"\n\n"


def encode_named_event(name: str, data: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps(data) + b"\n\n"
