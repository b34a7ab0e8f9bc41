"""Long prompts do not keep short ones waiting: the order of first tokens, step by step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from model_executor.parity import EngineUnderTest

CHUNK = 256
LONG, SHORT = 10 * CHUNK, 40
FAIR = "server.vllm_scheduler.make_scheduler"
KV_BYTES_PER_TOKEN = 2048  # float32: keys and values of 4 layers, 2 heads, 32 values


@contextmanager
def started(
    checkpoint: Path, scheduler_cls: str | None, **options: Any
) -> Iterator[EngineUnderTest]:
    under_test = EngineUnderTest(
        str(checkpoint),
        max_model_len=LONG + CHUNK,
        max_num_batched_tokens=CHUNK,
        scheduler_cls=scheduler_cls,
        **options,
    )
    try:
        yield under_test
    finally:
        under_test.close()


@pytest.fixture(scope="module")
def fair(instruct_checkpoint: Path) -> Iterator[EngineUnderTest]:
    """There can be one engine at a time: tests with one of their own come before its first use."""
    with started(instruct_checkpoint, FAIR) as under_test:
        yield under_test


def add(engine: EngineUnderTest, name: str, num_tokens: int, max_tokens: int = 1) -> None:
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
    prompt = {"prompt_token_ids": [10] * num_tokens}
    engine.llm.llm_engine.add_request(name, prompt, sampling)


def run(engine: EngineUnderTest, arrivals: dict[int, Callable[[], None]]) -> dict[str, int]:
    """Step until all is done; `arrivals` come before the step of that number.

    Returns: the step in which each request was finished, in the order of their ends.
    """
    core = engine.llm.llm_engine
    ends: dict[str, int] = {}
    step = 0
    while core.has_unfinished_requests() or step <= max(arrivals):
        arrivals.get(step, lambda: None)()
        for output in core.step():
            if output.finished:
                ends[output.request_id] = step
        step += 1
        assert step < 2000
    return ends


def add_long(engine: EngineUnderTest, num_long: int) -> Callable[[], None]:
    def add_all() -> None:
        for index in range(num_long):
            add(engine, f"long-{index}", LONG)

    return add_all


def test_without_it_the_short_prompt_comes_last(instruct_checkpoint: Path) -> None:
    """What the other tests would miss if they could not fail."""
    with started(instruct_checkpoint, None) as engine:
        ends = run(engine, {0: add_long(engine, 3), 4: lambda: add(engine, "short", SHORT)})
    assert list(ends) == ["long-0", "long-1", "long-2", "short"]


def test_what_waits_for_kv_cache_is_passed_by_what_fits(instruct_checkpoint: Path) -> None:
    """Room for one long prompt and a half: the second waits for the first one's answer."""
    room = LONG * 3 // 2 * KV_BYTES_PER_TOKEN
    with started(instruct_checkpoint, FAIR, kv_cache_bytes=room) as engine:
        ends = run(
            engine,
            {
                0: lambda: add(engine, "long-0", LONG, max_tokens=100),
                1: lambda: add(engine, "long-1", LONG),
                2: lambda: add(engine, "long-2", LONG),
                20: lambda: add(engine, "short", SHORT),
            },
        )
    assert list(ends) == ["short", "long-0", "long-1", "long-2"]
    assert ends["short"] <= 20 + 5


def test_a_short_prompt_passes_long_ones_in_prefill(fair: EngineUnderTest) -> None:
    ends = run(fair, {0: add_long(fair, 3), 4: lambda: add(fair, "short", SHORT)})
    assert list(ends) == ["short", "long-0", "long-1", "long-2"]
    assert ends["short"] <= 4 + 2


def test_long_prompts_lose_nothing_but_the_short_one_s_tokens(fair: EngineUnderTest) -> None:
    ends = run(fair, {0: add_long(fair, 3), 4: lambda: add(fair, "short", SHORT)})
    num_steps = -(-(3 * LONG + SHORT) // CHUNK)
    assert ends["long-0"] <= LONG // CHUNK + 4
    assert ends["long-2"] <= num_steps + 2


def test_short_prompts_without_end_do_not_keep_a_long_one_waiting(fair: EngineUnderTest) -> None:
    """More of them than fit: four of a quarter's step, each step."""

    def four(step: int) -> Callable[[], None]:
        def add_four() -> None:
            for index in range(4):
                add(fair, f"{step}-{index}", CHUNK // 2)

        return add_four

    arrivals = {0: add_long(fair, 1)} | {step: four(step) for step in range(1, 60)}
    ends = run(fair, arrivals)
    assert ends["long-0"] <= 4 * LONG // CHUNK + 4


def test_a_running_answer_gets_a_token_in_every_step(fair: EngineUnderTest) -> None:
    def begin() -> None:
        add(fair, "answer", SHORT, max_tokens=60)

    ends = run(fair, {0: begin, 3: add_long(fair, 3), 5: lambda: add(fair, "short", SHORT)})
    assert ends["answer"] == 59
