from dataclasses import replace

import pytest

from server.engine import EngineRequest, GenerationChunk, SamplingOptions, TokenLogprob
from server.thinking_budget import ThinkingBudget, ThinkingEnd, generate_within
from tests.fake_engine import CLOSE_ID, FakeEngine

END = ThinkingEnd(
    (50, 51, CLOSE_ID, 52), "\n\nEnough.\n</think>\n\n", (TokenLogprob(50, b"e", 0.0),)
)
PROMPT = (7, 8, 9)


async def load_nothing(keys):
    return {}


def budget(max_tokens: int) -> ThinkingBudget:
    return ThinkingBudget(max_tokens, CLOSE_ID, END, lambda ids: "".join(f"{i}." for i in ids))


def request(**sampling) -> EngineRequest:
    options = SamplingOptions(**{"max_tokens": 100, **sampling})
    return EngineRequest("r", PROMPT, (), options, load_nothing, starts_in_reasoning=True)


def chunk(*token_ids: int, finish: str | None = None, **fields) -> GenerationChunk:
    text = "".join("</think>" if i == CLOSE_ID else f"{i}." for i in token_ids)
    return GenerationChunk(text, token_ids, finish_reason=finish, **fields)


async def read(engine: FakeEngine, num_thinking: int, **sampling) -> list[GenerationChunk]:
    return [c async for c in generate_within(budget(num_thinking), engine, request(**sampling))]


def engine_with(*scripts) -> FakeEngine:
    engine = FakeEngine()
    engine.scripts = list(scripts)
    return engine


def tokens(chunks) -> list[int]:
    return [token_id for c in chunks for token_id in c.token_ids]


ANSWER = [chunk(60, 61), chunk(62, finish="stop")]


@pytest.mark.parametrize(
    "thinking",
    [
        [chunk(1), chunk(2), chunk(CLOSE_ID), chunk(3, finish="stop")],
        [chunk(1, 2, CLOSE_ID, 3, finish="stop")],
        [chunk(CLOSE_ID, 3, finish="stop")],
    ],
)
async def test_thinking_that_ends_in_time_is_untouched(thinking):
    engine = engine_with(thinking)
    assert await read(engine, 2) == thinking
    assert len(engine.requests) == 1 and not engine.aborted


@pytest.mark.parametrize(
    "thinking",
    [
        [chunk(1), chunk(2), chunk(3), chunk(4)],
        [chunk(1, 2, 3, 4)],
        [chunk(1, 2), chunk(3, 4)],
        [chunk(1), chunk(2, 3), chunk(4)],
        [chunk(1), chunk(2), chunk(3, CLOSE_ID, 4)],
    ],
)
async def test_thinking_is_cut_to_the_token(thinking):
    engine = engine_with(thinking, ANSWER)
    chunks = await read(engine, 2)
    assert tokens(chunks) == [1, 2, *END.token_ids, 60, 61, 62]
    assert "".join(c.text for c in chunks) == f"1.2.{END.text}60.61.62."
    assert engine.aborted == ["r"]
    first, second = engine.requests
    assert second.prompt_token_ids == (*PROMPT, 1, 2, *END.token_ids)
    assert not second.starts_in_reasoning and second.request_id != first.request_id


async def test_budget_of_nothing_asks_the_engine_once():
    engine = engine_with(ANSWER)
    assert tokens(await read(engine, 0)) == [*END.token_ids, 60, 61, 62]
    assert engine.requests[0].prompt_token_ids == (*PROMPT, *END.token_ids)


async def test_inserted_tokens_count_against_the_limits():
    engine = engine_with([chunk(1), chunk(2)], ANSWER)
    await read(engine, 1, max_tokens=20, min_tokens=10)
    sampling = engine.requests[1].sampling
    assert (sampling.max_tokens, sampling.min_tokens) == (15, 5)


@pytest.mark.parametrize("max_tokens", [3, 4, 5])
async def test_answer_without_room_ends_as_length(max_tokens):
    chunks = await read(engine_with([chunk(1), chunk(2)]), 1, max_tokens=max_tokens)
    assert tokens(chunks) == [1]
    assert chunks[-1].finish_reason == "length"


async def test_answer_that_ends_within_the_thinking_is_untouched():
    thinking = [chunk(1), chunk(2, finish="length")]
    assert await read(engine_with(thinking), 5) == thinking


async def test_answer_has_its_own_seed_and_the_same_one_each_time():
    engine = engine_with(*[[chunk(1), chunk(2)], ANSWER] * 2)
    await read(engine, 1, seed=2**63 - 1)
    await read(engine, 1, seed=2**63 - 1)
    first, second, *_ = seeds = [r.sampling.seed for r in engine.requests]
    assert seeds == [first, second, first, second] and first != second
    assert -(2**63) <= second < 2**63


async def test_logprobs_are_those_of_the_tokens_that_are_kept():
    drawn = tuple(TokenLogprob(i, b"x", -1.0) for i in (1, 2, 3))
    engine = engine_with([chunk(1, 2, 3, logprobs=drawn)], ANSWER)
    chunks = await read(engine, 2, num_logprobs=0)
    assert [c.logprobs for c in chunks[:2]] == [drawn[:2], END.logprobs]


async def test_cached_tokens_are_those_of_the_prompt():
    engine = engine_with(
        [chunk(1, num_cached_tokens=2), chunk(2)],
        [replace(c, num_cached_tokens=9) for c in ANSWER],
    )
    assert max(c.num_cached_tokens for c in await read(engine, 1)) == 2


async def test_closing_the_answer_aborts_what_runs():
    engine = engine_with([chunk(1), chunk(2)], ANSWER)
    chunks = generate_within(budget(1), engine, request())
    async for c in chunks:
        if 60 in c.token_ids:
            break
    await chunks.aclose()
    assert engine.aborted == ["r", "r-answer"]


async def test_cached_tokens_are_told_for_a_budget_of_nothing_too():
    engine = engine_with([replace(c, num_cached_tokens=3) for c in ANSWER])
    assert max(c.num_cached_tokens for c in await read(engine, 0)) == 3
