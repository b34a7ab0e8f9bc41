"""Answers as OpenAI's `chat.completion` and `chat.completion.chunk`."""

import time
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from server.answer import Answer, Usage
from server.answer_format import encode_event
from server.answer_parts import (
    AnswerPart,
    ContentText,
    ReasoningText,
    ToolCallArguments,
    ToolCallFailed,
    ToolCallStart,
)
from server.choice import Delta
from server.collected_message import CollectedMessage
from server.engine import TokenLogprob
from server.protocol import ChatCompletionRequest


@dataclass(slots=True)
class _Choice:
    message: CollectedMessage = field(default_factory=CollectedMessage)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None


class ChatFormat:
    """One answer of `/v1/chat/completions`."""

    last_event = b"data: [DONE]\n\n"

    def __init__(self, request: ChatCompletionRequest, model: str) -> None:
        self.answer_id = f"chatcmpl-{uuid.uuid4().hex}"
        self._head = {"id": self.answer_id, "created": int(time.time()), "model": model}
        self._with_logprobs = bool(request.logprobs)
        self._with_usage = request.includes_usage
        self._with_continuous_usage = request.includes_continuous_usage

    async def collect(self, answer: Answer, deltas: AsyncIterator[Delta]) -> dict[str, Any]:
        choices = [_Choice() for _ in range(answer.num_choices)]
        async for delta in deltas:
            choice = choices[delta.index]
            for part in delta.parts:
                choice.message.add(part)
            choice.logprobs.extend(delta.logprobs)
            choice.finish_reason = delta.finish_reason
        described = [
            {
                "index": index,
                "message": _describe_message(choice.message, answer, index),
                "logprobs": describe_logprobs(choice.logprobs) if self._with_logprobs else None,
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(choices)
        ]
        usage = describe_usage(answer.usage)
        return {**self._head, "object": "chat.completion", "choices": described, "usage": usage}

    async def iterate_events(
        self, answer: Answer, deltas: AsyncIterator[Delta]
    ) -> AsyncIterator[bytes]:
        """The first event of each choice has its role; the last of all may have the usage."""
        head = self._head | {"object": "chat.completion.chunk"}
        writer = _ChunkWriter(head)
        if self._with_usage:
            writer.tell_usage(None)
        started = False
        async for delta in deltas:
            if self._with_continuous_usage:
                writer.tell_usage(answer.usage)
            if not started:
                started = True
                for index in range(answer.num_choices):
                    yield writer.write(index, {"role": "assistant", "content": ""})
            if events := self._write_delta(writer, delta):
                yield events
        if self._with_usage:
            usage = describe_usage(answer.usage)
            yield encode_event(head | {"usage": usage, "choices": []})

    def describe_failure(self, body: Mapping[str, Any], status: int) -> bytes:
        return encode_event(body)

    def _write_delta(self, writer: "_ChunkWriter", delta: Delta) -> bytes:
        """Nothing, new text, calls, the end of the choice: as events in this order."""
        logprobs = describe_logprobs(delta.logprobs) if delta.logprobs else None
        events = []
        for part in delta.parts:
            if message := _describe_part(part):
                events.append(writer.write(delta.index, message, logprobs))
                logprobs = None  # with the first of them
        if logprobs is not None:
            events.append(writer.write(delta.index, {}, logprobs))
        if delta.finish_reason is not None:
            events.append(writer.write(delta.index, {}, finish_reason=delta.finish_reason))
        return b"".join(events)


class _ChunkWriter:
    """Writes the events of one stream; what they have in common is encoded once."""

    def __init__(self, head: Mapping[str, Any]) -> None:
        self._head = b"data: " + orjson.dumps(head)[:-1]
        self._start = self._head + b',"choices":['

    def tell_usage(self, usage: Usage | None) -> None:
        """In all events from now on; None is written as null."""
        described = None if usage is None else describe_usage(usage)
        self._start = b'%b,"usage":%b,"choices":[' % (self._head, orjson.dumps(described))

    def write(
        self,
        index: int,
        message: Mapping[str, Any],
        logprobs: Mapping[str, Any] | None = None,
        finish_reason: str | None = None,
    ) -> bytes:
        choice = {
            "index": index,
            "delta": message,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        return b"%b%b]}\n\n" % (self._start, orjson.dumps(choice))


def _describe_part(part: AnswerPart) -> dict[str, Any] | None:
    """The `delta` that tells of it, if any does. Frequent parts come first."""
    match part:
        case ContentText():
            return {"content": part.text}
        case ReasoningText():
            return {"reasoning_content": part.text, "reasoning": part.text}
        case ToolCallArguments():
            call: dict[str, Any] = {"index": part.index, "function": {"arguments": part.text}}
            return {"tool_calls": [call]}
        case ToolCallStart():
            function = {"name": part.name, "arguments": ""}
            call = {"index": part.index, "id": part.id, "type": "function", "function": function}
            return {"tool_calls": [call]}
        case ToolCallFailed():
            return {"content": part.raw}
        case _:
            return None


def _describe_message(message: CollectedMessage, answer: Answer, index: int) -> dict[str, Any]:
    """`content` is null when the answer was cut in its reasoning, or has calls only."""
    content = None if answer.is_reasoning(index) else message.content
    if message.calls and not content:
        content = None
    described: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if answer.can_reason:
        reasoning = message.reasoning or None
        described |= {"reasoning_content": reasoning, "reasoning": reasoning}
    if message.calls:
        described["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": "".join(call.arguments)},
            }
            for call in message.calls.values()
        ]
    return described


def describe_usage(usage: Usage) -> dict[str, Any]:
    """OpenAI's `usage`, with the tokens of images and videos as further details."""
    prompt = usage.prompt
    sources = usage.item_sources
    return {
        "prompt_tokens": prompt.num_tokens,
        "completion_tokens": usage.num_completion_tokens,
        "total_tokens": prompt.num_tokens + usage.num_completion_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.num_cached_tokens,
            "image_tokens": prompt.num_image_tokens,
            "video_tokens": prompt.num_video_tokens,
            **({} if sources is None else {"item_sources": list(sources)}),
        },
        "completion_tokens_details": {"reasoning_tokens": usage.num_reasoning_tokens},
    }


def describe_logprobs(logprobs: Iterable[TokenLogprob]) -> dict[str, Any]:
    """OpenAI's `logprobs` of a chat choice. It lists all tokens, those of the reasoning too."""
    entries = []
    for drawn in logprobs:
        top = [_describe_token(token) for token in drawn.top]
        entries.append({**_describe_token(drawn), "top_logprobs": top})
    return {"content": entries, "refusal": None}


def _describe_token(token: TokenLogprob) -> dict[str, Any]:
    return {
        "token": token.token_bytes.decode("utf-8", errors="replace"),
        "logprob": token.logprob,
        "bytes": list(token.token_bytes),
    }
