"""In which order vLLM admits the requests of several clients."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from model_executor.parity import EngineUnderTest
from server.vllm_fair_clients import CLIENT_ID

MAX_NUM_SEQS = 16  # of `EngineUnderTest`
FLOOD = 80


@pytest.fixture(scope="module", params=["make_scheduler", "make_plain_scheduler"])
def engine(instruct_checkpoint: Path, request: pytest.FixtureRequest) -> Iterator[EngineUnderTest]:
    under_test = EngineUnderTest(
        str(instruct_checkpoint),
        max_model_len=256,
        max_num_batched_tokens=256,
        scheduler_cls=f"server.vllm_scheduler.{request.param}",
    )
    try:
        yield under_test
    finally:
        under_test.close()


def add(engine: EngineUnderTest, client_id: str, number: int, priority: int = 0) -> None:
    from vllm import SamplingParams

    sampling = SamplingParams(max_tokens=3, ignore_eos=True, extra_args={CLIENT_ID: client_id})
    name, prompt = f"{client_id}-{number}", {"prompt_token_ids": [10] * 20}
    engine.llm.llm_engine.add_request(name, prompt, sampling, priority=priority)


def finish(engine: EngineUnderTest) -> list[str]:
    """Who ends, in order."""
    ends: list[str] = []
    while engine.llm.llm_engine.has_unfinished_requests():
        ends += [out.request_id for out in engine.llm.llm_engine.step() if out.finished]
    return ends


def test_a_flood_does_not_keep_others_waiting(engine: EngineUnderTest) -> None:
    for number in range(FLOOD):
        add(engine, "flood", number)
    engine.llm.llm_engine.step()
    for number in range(3):
        add(engine, "light", number)
    ends = finish(engine)
    assert len(ends) == FLOOD + 3
    assert max(ends.index(f"light-{number}") for number in range(3)) < 2 * MAX_NUM_SEQS


def test_priorities_are_among_the_requests_of_one_client(engine: EngineUnderTest) -> None:
    for number in range(FLOOD):
        add(engine, "pushy", number, priority=-number)
    for number in range(3):
        add(engine, "modest", number)
    ends = finish(engine)
    assert max(ends.index(f"modest-{number}") for number in range(3)) < 2 * MAX_NUM_SEQS
    assert set(ends[: MAX_NUM_SEQS - 3]) <= {f"pushy-{n}" for n in range(FLOOD - 16, FLOOD)} | {
        f"modest-{n}" for n in range(3)
    }
