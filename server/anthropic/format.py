"""Answers as Anthropic's `message` and the events of its stream."""

import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import orjson

from server.answer import Answer, Usage
from server.answer_format import encode_named_event
from server.anthropic.errors import describe_error
from server.anthropic.events import SIGNATURE, BlockEvents
from server.choice import Delta, FinishReason
from server.collected_message import CollectedMessage

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class AnthropicFormat:
    """One answer of `/v1/messages`.

    Args:
        shows_thinking: if not, reasoning is left out.
    """

    last_event = b""

    def __init__(self, model: str, *, shows_thinking: bool) -> None:
        self.answer_id = f"msg_{uuid.uuid4().hex}"
        self._head = {
            "id": self.answer_id,
            "type": "message",
            "role": "assistant",
            "model": model,
        }
        self._shows_thinking = shows_thinking

    async def collect(self, answer: Answer, deltas: AsyncIterator[Delta]) -> dict[str, Any]:
        """The input of a call is an `orjson.Fragment`: what the model wrote, not parsed again."""
        message = CollectedMessage()
        end: dict[str, Any] = {}
        async for delta in deltas:
            for part in delta.parts:
                message.add(part)
            if delta.finish_reason is not None:
                end = _describe_end(delta.finish_reason, delta.stop)
        content = self._describe_content(message)
        return {**self._head, "content": content, **end, "usage": describe_usage(answer.usage)}

    async def iterate_events(
        self, answer: Answer, deltas: AsyncIterator[Delta]
    ) -> AsyncIterator[bytes]:
        """All events of a delta come as one piece; `message_start` with the first."""
        blocks = BlockEvents(shows_thinking=self._shows_thinking)
        start: Callable[[Usage], bytes] | None = self._encode_start
        async for delta in deltas:
            events = [start(answer.usage)] if start else []
            start = None
            events += map(blocks.write, delta.parts)
            if delta.finish_reason is not None:
                end = _describe_end(delta.finish_reason, delta.stop)
                events += (blocks.close(), _encode_end(end, answer.usage))
            if joined := b"".join(events):
                yield joined

    def describe_failure(self, body: Mapping[str, Any], status: int) -> bytes:
        return encode_named_event("error", describe_error(body, status))

    def _describe_content(self, message: CollectedMessage) -> list[dict[str, Any]]:
        """The thinking, then the text, then the calls."""
        blocks: list[dict[str, Any]] = []
        if message.reasoning and self._shows_thinking:
            thinking = message.reasoning
            blocks.append({"type": "thinking", "thinking": thinking, "signature": SIGNATURE})
        if message.content:
            blocks.append({"type": "text", "text": message.content})
        for call in message.calls.values():
            arguments = orjson.Fragment("".join(call.arguments) or "{}")
            blocks.append(
                {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments}
            )
        return blocks

    def _encode_start(self, usage: Usage) -> bytes:
        end = {"stop_reason": None, "stop_sequence": None}
        message: dict[str, Any] = {**self._head, "content": [], **end}
        message["usage"] = describe_usage(usage)
        return encode_named_event("message_start", {"type": "message_start", "message": message})


def describe_usage(usage: Usage) -> dict[str, Any]:
    """Anthropic's `usage`, where what was cached is no part of `input_tokens`."""
    sources = usage.item_sources
    return {
        "input_tokens": usage.prompt.num_tokens - usage.num_cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.num_cached_tokens,
        "output_tokens": usage.num_completion_tokens,
        **({} if sources is None else {"item_sources": list(sources)}),
    }


def _describe_end(reason: FinishReason, stop: str | None) -> dict[str, Any]:
    if reason == "stop" and stop is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": stop}
    return {"stop_reason": _STOP_REASONS[reason], "stop_sequence": None}


def _encode_end(end: dict[str, Any], usage: Usage) -> bytes:
    delta = {"type": "message_delta", "delta": end, "usage": describe_usage(usage)}
    stop = encode_named_event("message_stop", {"type": "message_stop"})
    return encode_named_event("message_delta", delta) + stop
