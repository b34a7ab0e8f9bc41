"""Answers as OpenAI's `response` object, whole or as events."""

import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from server.answer import Answer, Usage
from server.choice import Delta, FinishReason
from server.collected_message import CollectedMessage
from server.errors import InvalidRequest
from server.protocol import Message
from server.responses.conversation import read_answer
from server.responses.echo import echo_request
from server.responses.events import EventEncoder
from server.responses.items import (
    Status,
    describe_call,
    describe_message,
    describe_reasoning,
    make_id,
)
from server.responses.logprobs import TextLogprobs
from server.responses.output import OutputStream
from server.responses.protocol import ResponsesRequest
from server.responses.store import KeptResponse, ResponseStore


@dataclass(frozen=True, slots=True)
class Keeper:
    """Keeps one response. `conversation` is what it answers."""

    store: ResponseStore
    client: str
    conversation: tuple[Message, ...]

    def keep(self, response: dict[str, Any]) -> None:
        """Keep it, or let it say that it is not kept."""
        output = response["output"]
        try:
            answer = read_answer(output)
        except InvalidRequest:  # arguments that are JSON, and too large a number for us: 1e999
            response["store"] = False
            return
        kept = KeptResponse(
            orjson.dumps(response),
            (*self.conversation, answer),
            tuple(item["id"] for item in output),
        )
        response["store"] = self.store.put(self.client, response["id"], kept)


class ResponsesFormat:
    """One answer of `/v1/responses`.

    Args:
        keeper: None if the response is not to be kept.
    """

    last_event = b""

    def __init__(self, request: ResponsesRequest, model: str, keeper: Keeper | None) -> None:
        self.answer_id = make_id("resp")
        self._keeper = keeper
        self._with_logprobs = request.includes_logprobs
        self._head = {
            "id": self.answer_id,
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
            **echo_request(request),
            "store": keeper is not None,
        }
        self._events = EventEncoder()
        self._output = OutputStream(self._events)

    async def collect(self, answer: Answer, deltas: AsyncIterator[Delta]) -> dict[str, Any]:
        message, finish_reason = CollectedMessage(), None
        tokens = TextLogprobs(answer) if self._with_logprobs else None
        logprobs: list[dict[str, Any]] = []
        async for delta in deltas:
            if tokens is not None:
                tokens.push(delta)
            for part in delta.parts:
                message.add(part)
                if tokens is not None:
                    logprobs += tokens.take(part)
            finish_reason = delta.finish_reason
        status = _status_of(finish_reason)
        output = _describe_output(message, logprobs, status, answer.is_reasoning(0))
        return self._finish(status, output, answer.usage)

    async def iterate_events(
        self, answer: Answer, deltas: AsyncIterator[Delta]
    ) -> AsyncIterator[bytes]:
        tokens = TextLogprobs(answer) if self._with_logprobs else None
        pending = []
        is_first, finish_reason = True, None
        async for delta in deltas:
            if is_first:
                is_first = False
                started = self._describe("in_progress", [])
                for kind in ("response.created", "response.in_progress"):
                    pending.append(self._events.encode(kind, response=started))
            if tokens is not None:
                tokens.push(delta)
            for part in delta.parts:
                logprobs = tokens.take(part) if tokens is not None else ()
                pending += self._output.write(part, logprobs)
            finish_reason = delta.finish_reason
            if pending:
                yield b"".join(pending)
                pending.clear()
        status = _status_of(finish_reason)
        pending += self._output.end(status, is_reasoning=answer.is_reasoning(0))
        response = self._finish(status, self._output.describe(status), answer.usage)
        pending.append(self._events.encode(f"response.{status}", response=response))
        yield b"".join(pending)

    def describe_failure(self, body: Mapping[str, Any], status: int) -> bytes:
        """The error itself, then the end of the response, for which some clients wait."""
        error = body["error"]
        fields = {name: error[name] for name in ("code", "message", "param")}
        failed = self._describe("failed", self._output.describe("incomplete"))
        failed["error"] = {"code": "server_error", "message": error["message"]}
        return self._events.encode("error", **fields) + self._events.encode(
            "response.failed", response=failed
        )

    def _finish(self, status: Status, output: list[dict[str, Any]], usage: Usage) -> dict[str, Any]:
        response = self._describe(status, output)
        response["usage"] = describe_usage(usage)
        if status == "incomplete":
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            response["completed_at"] = int(time.time())
        if self._keeper is not None:
            self._keeper.keep(response)
        return response

    def _describe(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            **self._head,
            "status": status,
            "output": output,
            "usage": None,
            "error": None,
            "incomplete_details": None,
            "completed_at": None,
        }


def _status_of(finish_reason: FinishReason | None) -> Status:
    return "incomplete" if finish_reason == "length" else "completed"


def _describe_output(
    message: CollectedMessage,
    logprobs: list[dict[str, Any]],
    status: Status,
    is_reasoning: bool,
) -> list[dict[str, Any]]:
    """Reasoning, text, calls; an answer without any has an empty text, unless it was cut."""
    output = []
    if message.reasoning:
        reasoning_status = status if is_reasoning else "completed"
        output.append(describe_reasoning(make_id("rs"), message.reasoning, reasoning_status))
    if message.content or not (message.calls or is_reasoning):
        output.append(describe_message(make_id("msg"), message.content, status, logprobs))
    for call in message.calls.values():
        arguments = "".join(call.arguments)
        output.append(describe_call(make_id("fc"), call.id, call.name, arguments, "completed"))
    return output


def describe_usage(usage: Usage) -> dict[str, Any]:
    """OpenAI's `usage`, with the tokens of images and videos as further details."""
    prompt, sources = usage.prompt, usage.item_sources
    return {
        "input_tokens": prompt.num_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.num_cached_tokens,
            "cache_write_tokens": 0,
            "image_tokens": prompt.num_image_tokens,
            "video_tokens": prompt.num_video_tokens,
            **({} if sources is None else {"item_sources": list(sources)}),
        },
        "output_tokens": usage.num_completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.num_reasoning_tokens},
        "total_tokens": prompt.num_tokens + usage.num_completion_tokens,
    }
