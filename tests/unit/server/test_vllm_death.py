"""Calls of an engine that dies meanwhile end; vLLM itself leaves them waiting."""

import asyncio
from dataclasses import dataclass
from typing import Any, cast

import pytest
from vllm.v1.engine.exceptions import EngineDeadError

from server import vllm_death
from server.engine import EngineDead
from server.vllm_death import engine_death, until_death


@dataclass
class FakeLlm:
    errored: bool = False


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_death, "_LOOK_INTERVAL_S", 0.01)


async def answer(value: Any, after: asyncio.Event | None = None) -> Any:
    if after is not None:
        await after.wait()
    if isinstance(value, Exception):
        raise value
    return value


async def test_a_call_is_answered() -> None:
    llm, event = cast(Any, FakeLlm()), asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, event.set)
    assert await until_death(llm, answer(1, event)) == 1
    with pytest.raises(ValueError, match="wrong"):
        await until_death(llm, answer(ValueError("wrong")))


async def test_a_call_of_an_engine_that_dies_ends() -> None:
    llm = FakeLlm()
    asyncio.get_running_loop().call_later(0.05, setattr, llm, "errored", True)
    with pytest.raises(EngineDead), engine_death():
        await until_death(cast(Any, llm), answer(1, asyncio.Event()))


async def test_a_call_that_is_cancelled_goes_on_nowhere() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def call() -> None:
        try:
            began.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(until_death(cast(Any, FakeLlm()), call()))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await ended.wait()


async def test_what_the_dead_engine_says_itself_is_passed_on() -> None:
    with pytest.raises(EngineDeadError):
        await until_death(cast(Any, FakeLlm(errored=True)), answer(EngineDeadError()))
