"""A whole answer in one body: the OpenAI object `chat.completion`."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from server.answer import Answer, Delta, describe_logprobs
from server.engine import TokenLogprob


@dataclass(frozen=True, slots=True)
class CompletionHead:
    """What every object of one answer repeats. `created` is in seconds since 1970."""

    id: str
    created: int
    model: str

    def describe(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


@dataclass(slots=True)
class _Choice:
    reasoning: list[str] = field(default_factory=list)
    content: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None


async def complete(
    head: CompletionHead, answer: Answer, deltas: AsyncIterator[Delta], *, with_logprobs: bool
) -> dict[str, Any]:
    """Read all deltas and make the response body of them."""
    choices = [_Choice() for _ in range(answer.num_choices)]
    async for delta in deltas:
        choice = choices[delta.index]
        choice.reasoning.append(delta.reasoning)
        choice.content.append(delta.content)
        choice.logprobs.extend(delta.logprobs)
        choice.finish_reason = delta.finish_reason
    described = [
        {
            "index": index,
            "message": _describe_message(choice, answer, index),
            "logprobs": describe_logprobs(choice.logprobs) if with_logprobs else None,
            "finish_reason": choice.finish_reason,
        }
        for index, choice in enumerate(choices)
    ]
    return {
        **head.describe("chat.completion"),
        "choices": described,
        "usage": answer.describe_usage(),
    }


def _describe_message(choice: _Choice, answer: Answer, index: int) -> dict[str, Any]:
    """`content` is null when the answer was cut before its reasoning ended."""
    content = None if answer.is_reasoning(index) else "".join(choice.content)
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if answer.can_reason:
        reasoning = "".join(choice.reasoning) or None
        message |= {"reasoning_content": reasoning, "reasoning": reasoning}
    return message
