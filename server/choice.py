"""One choice of an answer: the engine's chunks of it become deltas."""

from dataclasses import dataclass
from typing import Literal

from server.answer_parts import AnswerPart, ContentText, ReasoningText
from server.engine import GenerationChunk, TokenLogprob
from server.errors import EngineFailed
from server.reasoning import ReasoningSplitter
from server.stop_strings import StopStrings
from server.tools.tool_calls import ToolCallParser

FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(slots=True)  # for each token: frozen ones are made four times slower
class Delta:
    """What is new in one choice.

    `finish_reason` is set on its last delta; `stop` is the stop string that ended it, if one did.
    `num_tokens` counts the engine's tokens behind it, those of the tags too.
    """

    index: int
    parts: tuple[AnswerPart, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    stop: str | None = None
    num_tokens: int = 0


class ChoiceReader:
    """Reads one choice: reasoning, then content up to a stop string, with tool calls in it.

    Args:
        splitter: None if the prompt does not end in an open reasoning block.
        stops: None if the request has no stop strings.
        min_tokens: up to this number of tokens, stop strings are ignored.
        tools: None if the request has no tools that may be called.
    """

    def __init__(
        self,
        index: int,
        *,
        splitter: ReasoningSplitter | None = None,
        stops: StopStrings | None = None,
        min_tokens: int = 0,
        tools: ToolCallParser | None = None,
    ) -> None:
        self._index = index
        self._splitter = splitter
        self._stops = stops
        self._min_tokens = min_tokens
        self._tools = tools
        self._num_tokens = 0

    @property
    def num_tokens(self) -> int:
        return self._num_tokens

    @property
    def num_reasoning_tokens(self) -> int:
        return self._splitter.num_reasoning_tokens if self._splitter else 0

    @property
    def can_reason(self) -> bool:
        return self._splitter is not None

    @property
    def is_reasoning(self) -> bool:
        """Whether the reasoning has not ended."""
        return self._splitter is not None and self._splitter.is_reasoning

    def read(self, chunk: GenerationChunk) -> Delta:
        """Raises: EngineFailed if the engine gave up."""
        reason = chunk.finish_reason
        if reason == "abort" or reason == "error":
            raise EngineFailed("the engine gave up on this request", "engine_error")
        self._num_tokens += len(chunk.token_ids)
        reasoning, content = "", chunk.text
        if self._splitter is not None:
            split = self._splitter.push(chunk.text, chunk.token_ids)
            reasoning, content = split.reasoning, split.content
            if reason is not None:
                reasoning += self._splitter.flush().reasoning
        stop = None
        if self._stops is not None:
            stopped = self._stops.push(content, is_armed=self._num_tokens > self._min_tokens)
            content, stop = stopped.text, stopped.stop
            if reason is not None and stop is None:
                content += self._stops.flush()
        parts = self._make_parts(reasoning, content, is_last=bool(reason or stop))
        return Delta(
            self._index,
            parts,
            chunk.logprobs,
            self._finish_reason("stop" if stop is not None else reason),
            stop,
            len(chunk.token_ids),
        )

    def _make_parts(self, reasoning: str, content: str, *, is_last: bool) -> tuple[AnswerPart, ...]:
        parts: list[AnswerPart] = [ReasoningText(reasoning)] if reasoning else []
        if self._tools is None:
            if content:
                parts.append(ContentText(content))
        else:
            parts += self._tools.push(content) if content else ()
            parts += self._tools.flush() if is_last else ()
        return tuple(parts)

    def _finish_reason(self, reason: Literal["stop", "length"] | None) -> FinishReason | None:
        if reason == "stop" and self._tools is not None and self._tools.num_calls:
            return "tool_calls"
        return reason
