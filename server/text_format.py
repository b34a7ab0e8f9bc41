"""Answers as OpenAI's `text_completion`."""

import codecs
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from server.answer import Answer
from server.answer_format import encode_event
from server.answer_parts import AnswerPart, ContentText
from server.chat_format import describe_usage
from server.choice import Delta
from server.engine import TokenLogprob
from server.text_protocol import CompletionRequest


@dataclass(slots=True)
class _Choice:
    text: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    num_chars: int = 0  # of the tokens whose logprobs have been told
    decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace")
    )
    finish_reason: str | None = None


class TextFormat:
    """One answer of `/v1/completions`."""

    last_event = b"data: [DONE]\n\n"

    def __init__(self, request: CompletionRequest, model: str) -> None:
        self.answer_id = f"cmpl-{uuid.uuid4().hex}"
        self._head = {
            "id": self.answer_id,
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        self._request = request
        self._with_logprobs = request.logprobs is not None

    async def collect(self, answer: Answer, deltas: AsyncIterator[Delta]) -> dict[str, Any]:
        choices = self._start_choices(answer)
        async for delta in deltas:
            choice = choices[delta.index]
            choice.text.append(_join(delta.parts))
            choice.logprobs.extend(delta.logprobs)
            choice.finish_reason = delta.finish_reason
        described = [
            self._describe_choice(
                index, choice, "".join(choice.text), choice.logprobs, choice.finish_reason
            )
            for index, choice in enumerate(choices)
        ]
        return {**self._head, "choices": described, "usage": describe_usage(answer.usage)}

    async def iterate_events(
        self, answer: Answer, deltas: AsyncIterator[Delta]
    ) -> AsyncIterator[bytes]:
        """An echoed prompt comes with the first text of each choice."""
        choices = self._start_choices(answer)
        request = self._request
        head: dict[str, Any] = self._head | ({"usage": None} if request.includes_usage else {})
        async for delta in deltas:
            if request.includes_continuous_usage:
                head["usage"] = describe_usage(answer.usage)
            choice = choices[delta.index]
            text = "".join(choice.text) + _join(delta.parts)
            choice.text.clear()
            if text or delta.logprobs or delta.finish_reason:
                described = self._describe_choice(
                    delta.index, choice, text, list(delta.logprobs), delta.finish_reason
                )
                yield encode_event(head | {"choices": [described]})
        if request.includes_usage:
            yield encode_event(head | {"choices": [], "usage": describe_usage(answer.usage)})

    def describe_failure(self, body: Mapping[str, Any], status: int) -> bytes:
        return encode_event(body)

    def _start_choices(self, answer: Answer) -> list[_Choice]:
        prompts = self._request.texts if self._request.echo else []
        n = self._request.n or 1
        choices = [_Choice() for _ in range(answer.num_choices)]
        for index, choice in enumerate(choices if prompts else []):
            choice.text.append(prompts[index // n])
            choice.num_chars = len(prompts[index // n])
        return choices

    def _describe_choice(
        self,
        index: int,
        choice: _Choice,
        text: str,
        logprobs: list[TokenLogprob],
        finish_reason: str | None,
    ) -> dict[str, Any]:
        return {
            "index": index,
            "text": text,
            "logprobs": _describe_logprobs(choice, logprobs) if self._with_logprobs else None,
            "finish_reason": finish_reason,
        }


def _join(parts: tuple[AnswerPart, ...]) -> str:
    return "".join(part.text for part in parts if isinstance(part, ContentText))


def _describe_logprobs(choice: _Choice, logprobs: list[TokenLogprob]) -> dict[str, Any]:
    """OpenAI's older form: parallel lists; `text_offset` counts characters of prompt and answer."""
    offsets = []
    for drawn in logprobs:
        offsets.append(choice.num_chars)
        choice.num_chars += len(choice.decoder.decode(drawn.token_bytes))
    return {
        "tokens": [_text(drawn) for drawn in logprobs],
        "token_logprobs": [drawn.logprob for drawn in logprobs],
        "top_logprobs": [
            {_text(token): token.logprob for token in (*drawn.top, drawn)} for drawn in logprobs
        ],
        "text_offset": offsets,
    }


def _text(token: TokenLogprob) -> str:
    return token.token_bytes.decode("utf-8", errors="replace")
