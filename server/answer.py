"""The answer to one request: the deltas of its choices, and the count of its tokens."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from server.choice import ChoiceReader, Delta
from server.engine import GenerationChunk, ItemSource
from server.errors import EngineFailed

Chunks = AsyncGenerator[GenerationChunk, None]


@dataclass(frozen=True, slots=True)
class PromptUsage:
    """Tokens of the prompt; those of images and videos are part of the total."""

    num_tokens: int
    num_image_tokens: int = 0
    num_video_tokens: int = 0


@dataclass(slots=True)  # for each token: frozen ones are made four times slower
class Usage:
    """Tokens so far. `item_sources` is None unless the client asked for it."""

    prompt: PromptUsage
    num_cached_tokens: int
    num_completion_tokens: int
    num_reasoning_tokens: int
    item_sources: tuple[ItemSource, ...] | None


class Answer:
    """One request's choices while they are generated.

    Args:
        num_prompts: each of which has the same number of choices, one after the other.
        tells_sources: whether `usage` says where each visual item came from.
    """

    def __init__(
        self,
        prompt: PromptUsage,
        choices: Sequence[ChoiceReader],
        *,
        num_prompts: int = 1,
        tells_sources: bool = False,
    ) -> None:
        self._prompt = prompt
        self._choices = choices
        self._tells_sources = tells_sources
        self._item_sources: tuple[ItemSource, ...] = ()
        self._num_cached_tokens = [0] * num_prompts

    @property
    def num_choices(self) -> int:
        return len(self._choices)

    @property
    def can_reason(self) -> bool:
        """Whether the choices begin with reasoning."""
        return self._choices[0].can_reason

    def is_reasoning(self, index: int) -> bool:
        """Whether the reasoning of a choice has not ended."""
        return self._choices[index].is_reasoning

    @property
    def usage(self) -> Usage:
        return Usage(
            self._prompt,
            sum(self._num_cached_tokens),
            sum(choice.num_tokens for choice in self._choices),
            sum(choice.num_reasoning_tokens for choice in self._choices),
            self._item_sources if self._tells_sources else None,
        )

    def read(self, streams: Sequence[Chunks]) -> AsyncGenerator[Delta, None]:
        """The deltas of all choices, as they come; `streams` has one for each choice.

        A stream is closed as soon as its choice has ended, and all of them when this is closed.
        Raises: EngineFailed if a choice does not come to an end.
        """
        per_prompt = len(self._choices) // len(self._num_cached_tokens)
        readers = [
            self._read_choice(index // per_prompt, *pair)
            for index, pair in enumerate(zip(self._choices, streams, strict=True))
        ]
        return readers[0] if len(readers) == 1 else _merge(readers)

    async def _read_choice(
        self, prompt: int, choice: ChoiceReader, chunks: Chunks
    ) -> AsyncGenerator[Delta, None]:
        is_done = False
        async with aclosing(chunks):
            async for chunk in chunks:
                cached = self._num_cached_tokens
                cached[prompt] = max(cached[prompt], chunk.num_cached_tokens)
                self._item_sources = self._item_sources or chunk.item_sources
                delta = choice.read(chunk)
                yield delta
                is_done = delta.finish_reason is not None
                if delta.stop is not None:
                    return  # the engine would go on; what ends by itself is read to its end
        if not is_done:
            raise EngineFailed("the engine ended this request early", "engine_error")


async def _merge(readers: Sequence[AsyncGenerator[Delta, None]]) -> AsyncGenerator[Delta, None]:
    """Deltas of several choices in the order of their arrival; the first error ends them all."""
    ready: asyncio.Queue[Delta | None] = asyncio.Queue(maxsize=len(readers))
    has_left = False

    async def pump(reader: AsyncGenerator[Delta, None]) -> None:
        async with aclosing(reader):
            async for delta in reader:
                await ready.put(delta)

    async def pump_all() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for reader in readers:
                    group.create_task(pump(reader))
        finally:
            if not has_left:
                await ready.put(None)

    pumping = asyncio.create_task(pump_all())
    try:
        while (delta := await ready.get()) is not None:
            yield delta
        await _unwrap(pumping)
    finally:
        has_left = True
        pumping.cancel()
        await asyncio.gather(pumping, return_exceptions=True)


async def _unwrap(pumping: "asyncio.Task[None]") -> None:
    """Raises: the first of the errors of a task group."""
    try:
        await pumping
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
