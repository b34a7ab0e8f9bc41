"""The choices of one answer: merged as they come, counted together, ended together."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import pytest

from server.answer import Answer, Chunks, PromptUsage
from server.answer_parts import ContentText
from server.choice import ChoiceReader, Delta
from server.engine import EngineRequest, GenerationChunk, SamplingOptions
from server.errors import EngineFailed
from server.reasoning import ReasoningSplitter
from server.stop_strings import StopStrings
from tests.fake_engine import CLOSE_ID, FakeEngine, Step, make_chunk

CAT = (make_chunk("A "), make_chunk("cat.", finish="stop"))
HANG_S = 10


async def load_nothing(keys: object) -> dict[str, object]:
    return {}


class Case:
    """An answer on a fake engine, whose requests are named by the number of their choice."""

    def __init__(
        self, *scripts: Sequence[Step], stop: str | None = None, tells_sources: bool = False
    ) -> None:
        self.engine = FakeEngine()
        self.engine.scripts = list(scripts)
        stops = [StopStrings([stop], included=False) if stop else None for _ in scripts]
        choices = [ChoiceReader(index, stops=stops[index]) for index in range(len(scripts))]
        self.answer = Answer(PromptUsage(9, 4, 2), choices, tells_sources=tells_sources)

    def open(self) -> AsyncGenerator[Delta, None]:
        return self.answer.read([self._start(index) for index in range(self.answer.num_choices)])

    async def read_all(self) -> list[Delta]:
        async with asyncio.timeout(HANG_S):
            return [delta async for delta in self.open()]

    def _start(self, index: int) -> Chunks:
        request = EngineRequest(str(index), (1,), (), SamplingOptions(8), load_nothing)
        return self.engine.generate(request)


def join(deltas: Sequence[Delta], index: int) -> str:
    parts = [part for delta in deltas if delta.index == index for part in delta.parts]
    assert all(isinstance(part, ContentText) for part in parts)
    return "".join(part.text for part in parts)


@pytest.mark.parametrize("num_choices", [1, 3])
async def test_an_answer_that_ends_well_is_read_to_its_end(num_choices: int) -> None:
    case = Case(*[CAT] * num_choices)
    deltas = await case.read_all()
    assert [join(deltas, index) for index in range(num_choices)] == ["A cat."] * num_choices
    assert [delta.finish_reason for delta in deltas].count("stop") == num_choices
    assert case.engine.aborted == []


async def test_deltas_come_in_the_order_of_their_arrival() -> None:
    release = asyncio.Event()
    case = Case([release, *CAT], [make_chunk("two "), make_chunk("more", finish="length")])
    deltas = []
    async with asyncio.timeout(HANG_S):
        async for delta in case.open():
            deltas.append(delta)
            if delta.finish_reason == "length":
                release.set()
    assert [delta.index for delta in deltas] == [1, 1, 0, 0]


async def test_usage_grows_with_the_deltas_of_all_choices() -> None:
    case = Case(CAT, [make_chunk("a b c", finish="stop")])
    await case.read_all()
    usage = case.answer.usage
    assert usage.prompt == PromptUsage(9, 4, 2)
    assert (usage.num_completion_tokens, usage.num_reasoning_tokens) == (5, 0)
    assert usage.item_sources is None


async def test_cached_tokens_are_those_of_the_choice_that_found_most() -> None:
    def script(num_cached_tokens: int) -> list[GenerationChunk]:
        return [make_chunk("a", finish="stop", num_cached_tokens=num_cached_tokens)]

    case = Case(script(0), script(8), script(4))
    await case.read_all()
    assert case.answer.usage.num_cached_tokens == 8


@pytest.mark.parametrize("tells", [True, False])
async def test_sources_are_told_if_asked_for(tells: bool) -> None:
    end = make_chunk("", finish="stop", item_sources=("encoded", "host"))
    case = Case([make_chunk("a"), end], tells_sources=tells)
    await case.read_all()
    assert case.answer.usage.item_sources == (("encoded", "host") if tells else None)


async def test_reasoning_is_told_of_each_choice() -> None:
    engine = FakeEngine()
    engine.scripts = [[make_chunk("a b</think>c", finish="stop")], [make_chunk("d", finish="stop")]]
    choices = [ChoiceReader(i, splitter=ReasoningSplitter(CLOSE_ID)) for i in range(2)]
    answer = Answer(PromptUsage(1), choices)
    requests = [EngineRequest(str(i), (1,), (), SamplingOptions(8), load_nothing) for i in range(2)]
    async for _ in answer.read([engine.generate(request) for request in requests]):
        pass
    assert answer.can_reason
    assert [answer.is_reasoning(index) for index in range(2)] == [False, True]
    assert answer.usage.num_reasoning_tokens == 3


@pytest.mark.parametrize("others", [0, 2])
async def test_a_choice_without_an_end_is_an_error(others: int) -> None:
    case = Case([make_chunk("A ")], *[CAT] * others)
    with pytest.raises(EngineFailed):
        await case.read_all()


async def test_an_error_of_one_choice_is_raised_as_it_is_and_closes_the_others() -> None:
    error = RuntimeError("broken")
    case = Case([make_chunk("A "), asyncio.Event()], [make_chunk("B "), error], [asyncio.Event()])
    with pytest.raises(RuntimeError) as caught:
        await case.read_all()
    assert caught.value is error
    assert sorted(case.engine.aborted) == ["0", "1", "2"]


async def test_what_came_before_an_error_is_still_read() -> None:
    case = Case([make_chunk("A "), asyncio.Event()], [make_chunk("B "), RuntimeError()])
    deltas = []
    with pytest.raises(RuntimeError):
        async for delta in case.open():
            deltas.append(delta)
    assert (join(deltas, 0), join(deltas, 1)) == ("A ", "B ")


@pytest.mark.parametrize("num_choices", [1, 3])
async def test_closing_it_aborts_all_choices(num_choices: int) -> None:
    case = Case(*[[make_chunk("A "), asyncio.Event()]] * num_choices)
    async with asyncio.timeout(HANG_S):
        async with aclosing(case.open()) as deltas:
            for _ in range(num_choices):
                await anext(deltas)
        assert sorted(case.engine.aborted) == [str(index) for index in range(num_choices)]


@pytest.mark.parametrize("num_choices", [1, 2, 5])
async def test_a_reader_that_lags_behind_can_still_leave(num_choices: int) -> None:
    case = Case(*[[make_chunk("A ")] * 100 + [asyncio.Event()]] * num_choices)
    async with asyncio.timeout(HANG_S):
        async with aclosing(case.open()) as deltas:
            await anext(deltas)
            for _ in range(100):  # the others go on until they have to wait for the reader
                await asyncio.sleep(0)
        assert len(case.engine.aborted) == num_choices


async def test_cancelling_the_reader_aborts_all_choices() -> None:
    case = Case([make_chunk("A "), asyncio.Event()], [asyncio.Event()])
    reading = asyncio.create_task(case.read_all())
    while len(case.engine.requests) < 2:
        await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(HANG_S):
            await reading
    assert sorted(case.engine.aborted) == ["0", "1"]


async def test_an_answer_that_is_not_read_starts_nothing() -> None:
    case = Case(CAT, CAT)
    async with aclosing(case.open()):
        pass
    assert case.engine.requests == []


async def test_a_stop_string_aborts_its_own_choice_only() -> None:
    is_stopped = asyncio.Event()
    case = Case([make_chunk("a STOP"), asyncio.Event()], [is_stopped, *CAT], stop="STOP")
    deltas = []
    async with asyncio.timeout(HANG_S):
        async for delta in case.open():
            deltas.append(delta)
            if delta.stop is not None:
                is_stopped.set()
    assert (join(deltas, 0), join(deltas, 1)) == ("a ", "A cat.")
    assert case.engine.aborted == ["0"]
