"""The engine's output of one request, as deltas of its choices; and the count of its tokens."""

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from server.engine import GenerationChunk, ItemSource, TokenLogprob
from server.errors import EngineFailed
from server.reasoning import ReasoningSplitter


@dataclass(frozen=True, slots=True)
class PromptUsage:
    """Tokens of the prompt; those of images and videos are part of the total."""

    num_tokens: int
    num_image_tokens: int
    num_video_tokens: int


@dataclass(frozen=True, slots=True)
class Delta:
    """What is new in one choice. `finish_reason` is set on its last delta."""

    index: int
    reasoning: str
    content: str
    logprobs: tuple[TokenLogprob, ...]
    finish_reason: Literal["stop", "length"] | None


class Answer:
    """One request's choices while they are generated.

    Args:
        splitters: one per choice.
        tells_sources: whether `usage` says where each visual item came from.
    """

    def __init__(
        self,
        prompt: PromptUsage,
        splitters: Iterable[ReasoningSplitter],
        *,
        tells_sources: bool = False,
    ) -> None:
        self._prompt = prompt
        self._tells_sources = tells_sources
        self._item_sources: tuple[ItemSource, ...] = ()
        self._splitters = list(splitters)
        self._num_unfinished = len(self._splitters)
        self._num_completion_tokens = 0
        self._num_cached_tokens = 0

    @property
    def num_choices(self) -> int:
        return len(self._splitters)

    @property
    def can_reason(self) -> bool:
        """Whether messages have the reasoning fields."""
        return self._splitters[0].can_reason

    @property
    def num_completion_tokens(self) -> int:
        return self._num_completion_tokens

    def is_reasoning(self, index: int) -> bool:
        """Whether the reasoning of a choice has begun and not ended."""
        return self._splitters[index].is_reasoning

    async def read(self, chunks: AsyncIterator[GenerationChunk]) -> AsyncIterator[Delta]:
        """The chunks as deltas. Raises: EngineFailed if a choice does not come to an end."""
        async for chunk in chunks:
            yield self._read_chunk(chunk)
        if self._num_unfinished:
            raise EngineFailed("the engine ended this request early", "engine_error")

    def _read_chunk(self, chunk: GenerationChunk) -> Delta:
        finish_reason = chunk.finish_reason
        if finish_reason == "abort" or finish_reason == "error":
            raise EngineFailed("the engine gave up on this request", "engine_error")
        self._num_completion_tokens += len(chunk.token_ids)
        self._num_cached_tokens = max(self._num_cached_tokens, chunk.num_cached_tokens)
        self._item_sources = self._item_sources or chunk.item_sources
        splitter = self._splitters[chunk.index]
        split = splitter.push(chunk.text, len(chunk.token_ids))
        reasoning, content = split.reasoning, split.content
        if finish_reason is not None:
            self._num_unfinished -= 1
            rest = splitter.flush()
            reasoning, content = reasoning + rest.reasoning, content + rest.content
        return Delta(chunk.index, reasoning, content, chunk.logprobs, finish_reason)

    def describe_usage(self) -> dict[str, Any]:
        """OpenAI's `usage`, with the tokens of images and videos as further details."""
        num_reasoning_tokens = sum(s.num_reasoning_tokens for s in self._splitters)
        sources = {"item_sources": list(self._item_sources)} if self._tells_sources else {}
        return {
            "prompt_tokens": self._prompt.num_tokens,
            "completion_tokens": self._num_completion_tokens,
            "total_tokens": self._prompt.num_tokens + self._num_completion_tokens,
            "prompt_tokens_details": {
                "cached_tokens": self._num_cached_tokens,
                "image_tokens": self._prompt.num_image_tokens,
                "video_tokens": self._prompt.num_video_tokens,
                **sources,
            },
            "completion_tokens_details": {"reasoning_tokens": num_reasoning_tokens},
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
