"""Thinking that ends after a number of tokens, whatever the engine underneath.

The engine generates as for any request. If the closing tag has not come by then, that generation
is ended, an early-stopping sentence and the tag are put behind the thinking, and the engine goes on
from there: with what it has in its prefix cache, the second start costs next to nothing. So what
ends in time is exactly what it would be without a budget. Source of the way to end: the Qwen3
technical report (arXiv:2505.09388), section 4.7.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from server.engine import Engine, EngineRequest, GenerationChunk, TokenLogprob

_ANSWER_SEED = 0x9E3779B97F4A7C15  # the answer is not drawn with the thinking's random numbers


@dataclass(frozen=True, slots=True)
class ThinkingEnd:
    """What is put behind thinking that is cut short. The tag is one of its tokens.

    `logprobs` are 0, as the tokens are not drawn.
    """

    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class ThinkingBudget:
    """At most `max_tokens` tokens of thinking; those of the `end` come on top.

    `decode`: token ids -> text.
    """

    max_tokens: int
    close_id: int
    end: ThinkingEnd
    decode: Callable[[Sequence[int]], str]


async def generate_within(
    budget: ThinkingBudget, engine: Engine, request: EngineRequest
) -> AsyncGenerator[GenerationChunk, None]:
    """The chunks of a request whose prompt ends in an open block.

    Inserted tokens are part of the answer and of its `max_tokens`. An answer with no room for them
    and one token more ends as `length`.
    """
    thinking: list[int] = []
    num_cached_tokens = 0
    if budget.max_tokens > 0:
        chunks, text = engine.generate(request), ""
        async with aclosing(chunks):
            async for chunk in chunks:
                num_cached_tokens = max(num_cached_tokens, chunk.num_cached_tokens)
                num_left = budget.max_tokens - len(thinking)
                if _ends_in_time(chunk, budget.close_id, num_left):
                    yield chunk
                    async for rest in chunks:
                        yield rest
                    return
                thinking += chunk.token_ids[:num_left]
                if len(chunk.token_ids) > num_left:
                    kept = _cut(chunk, num_left, budget.decode(thinking).rstrip("\ufffd"), text)
                    yield kept
                    break
                text += chunk.text
                yield chunk
            else:
                return
    num_left = request.sampling.max_tokens - len(thinking) - len(budget.end.token_ids)
    if num_left < 1:
        yield GenerationChunk("", (), finish_reason="length")
        return
    yield _insert(budget, request.sampling.num_logprobs is not None, num_cached_tokens)
    answer = engine.generate(_continue(request, thinking, budget.end.token_ids, num_left))
    async with aclosing(answer):
        async for chunk in answer:
            if budget.max_tokens > 0:  # of the prompt, not of the thinking behind it
                chunk = replace(chunk, num_cached_tokens=num_cached_tokens)
            yield chunk


def _ends_in_time(chunk: GenerationChunk, close_id: int, num_left: int) -> bool:
    return close_id in chunk.token_ids and chunk.token_ids.index(close_id) <= num_left


def _cut(chunk: GenerationChunk, num_tokens: int, text: str, sent: str) -> GenerationChunk:
    """The chunk with its first tokens only; `text` is that of the whole thinking."""
    return replace(
        chunk,
        text=text.removeprefix(sent) if text.startswith(sent) else "",
        token_ids=chunk.token_ids[:num_tokens],
        logprobs=chunk.logprobs[:num_tokens],
        finish_reason=None,
    )


def _insert(budget: ThinkingBudget, with_logprobs: bool, num_cached_tokens: int) -> GenerationChunk:
    end = budget.end
    logprobs = end.logprobs if with_logprobs else ()
    return GenerationChunk(end.text, end.token_ids, logprobs, num_cached_tokens=num_cached_tokens)


def _continue(
    request: EngineRequest, thinking: Sequence[int], end: Sequence[int], max_tokens: int
) -> EngineRequest:
    sampling = request.sampling
    num_spent = len(thinking) + len(end)
    return replace(
        request,
        request_id=f"{request.request_id}-answer",
        prompt_token_ids=(*request.prompt_token_ids, *thinking, *end),
        starts_in_reasoning=False,
        sampling=replace(
            sampling,
            max_tokens=max_tokens,
            min_tokens=max(sampling.min_tokens - num_spent, 0),
            seed=None if sampling.seed is None else _wrap(sampling.seed ^ _ANSWER_SEED),
        ),
    )


def _wrap(seed: int) -> int:
    """Into 64 bits with a sign."""
    return (seed + 2**63) % 2**64 - 2**63
