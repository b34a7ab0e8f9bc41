import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence

import pytest

from server import encode_queue
from server.encode_queue import Call, EncodeQueue
from server.encode_request import EncodeRequest
from server.errors import NotStored, Overloaded

MAX_BATCH_TOKENS = 10


class Tower:
    """Stands for the engine and the tiers."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.stored: set[str] = set()
        self.rejected: set[str] = set()
        self.lost: set[str] = set()
        self.failure: Exception | None = None
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.observed: list[tuple[str, int]] = []

    async def encode(self, calls: Sequence[Call]) -> Collection[str]:
        self.batches.append([call[0] for call in calls])
        await self.may_go_on.wait()
        if self.failure is not None:
            raise self.failure
        keys = {call[0] for call in calls}
        self.stored |= keys - self.rejected - self.lost
        return keys & self.rejected

    def observe(self, modality: str, num_items: int) -> None:
        self.observed.append((modality, num_items))


@pytest.fixture
async def tower() -> Tower:
    return Tower()


@pytest.fixture
async def queue(tower: Tower) -> AsyncIterator[EncodeQueue]:
    queue = EncodeQueue(tower.encode, tower.stored.__contains__, MAX_BATCH_TOKENS, tower.observe)
    yield queue
    await queue.close()


def request(key: str, modality: str = "image", num_tokens: int = 1) -> EncodeRequest:
    return EncodeRequest(modality, key, 2, 2 * num_tokens, num_tokens, 4 * num_tokens)  # type: ignore[arg-type]


def start(queue: EncodeQueue, *requests: EncodeRequest) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(queue.encode(asked, b"1234")) for asked in requests]


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.001)


async def test_an_item_is_encoded_and_awaited_until_it_is_stored(tower, queue):
    await queue.encode(request("a"), b"1234")
    assert tower.batches == [["a"]]
    assert tower.stored == {"a"}
    assert tower.observed == [("image", 1)]


async def test_what_comes_while_a_batch_runs_makes_the_next_one(tower, queue):
    tower.may_go_on.clear()
    first = start(queue, request("a"))
    await until(lambda: len(tower.batches) == 1)
    others = start(queue, *(request(key) for key in "bcd"))
    await asyncio.sleep(0.05)
    tower.may_go_on.set()
    await asyncio.gather(*first, *others)
    assert tower.batches == [["a"], ["b", "c", "d"]]


async def test_a_batch_has_one_modality_and_no_more_tokens_than_allowed(tower, queue):
    tower.may_go_on.clear()
    first = start(queue, request("a", "video"))
    await until(lambda: len(tower.batches) == 1)
    others = start(
        queue,
        request("b", "image", 6),
        request("c", "video", 20),
        request("d", "image", 4),
        request("e", "image", 1),
    )
    await asyncio.sleep(0.05)
    tower.may_go_on.set()
    await asyncio.gather(*first, *others)
    assert tower.batches == [["a"], ["b", "d"], ["c"], ["e"]]
    assert tower.observed == [("video", 1), ("image", 2), ("video", 1), ("image", 1)]


async def test_an_item_is_encoded_once_for_all_who_want_it_at_the_same_time(tower, queue):
    tower.may_go_on.clear()
    tasks = start(queue, request("a"), request("a"))
    await until(lambda: bool(tower.batches))
    tasks += start(queue, request("a"))
    await asyncio.sleep(0.05)
    tower.may_go_on.set()
    await asyncio.gather(*tasks)
    assert tower.batches == [["a"]]


async def test_what_is_stored_already_is_not_encoded(tower, queue):
    tower.stored.add("a")
    await queue.encode(request("a"), b"1234")
    assert tower.batches == []


async def test_what_cannot_be_queued_for_writing_may_be_tried_again(tower, queue):
    tower.rejected = {"b"}
    tower.may_go_on.clear()
    tasks = start(queue, request("x"))
    await until(lambda: bool(tower.batches))
    tasks += start(queue, request("a"), request("b"))
    await asyncio.sleep(0.05)
    tower.may_go_on.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[:2] == [None, None]
    assert isinstance(results[2], Overloaded)


async def test_an_embedding_that_does_not_appear_is_an_error(tower, queue, monkeypatch):
    monkeypatch.setattr(encode_queue, "_STORE_TIMEOUT_S", 0.02)
    tower.lost = {"a"}
    with pytest.raises(NotStored):
        await queue.encode(request("a"), b"1234")
    tower.lost = set()
    await queue.encode(request("a"), b"1234")
    assert tower.batches == [["a"], ["a"]]


async def test_a_failure_of_the_engine_is_that_of_its_batch_alone(tower, queue):
    tower.failure = RuntimeError("out of memory")
    with pytest.raises(RuntimeError, match="out of memory"):
        await queue.encode(request("a"), b"1234")
    tower.failure = None
    await queue.encode(request("b"), b"1234")
    assert tower.stored == {"b"}


async def test_what_nobody_waits_for_any_more_is_not_encoded(tower, queue):
    tower.may_go_on.clear()
    first = start(queue, request("a"))
    await until(lambda: bool(tower.batches))
    (gone, stays, other) = start(queue, request("b"), request("c"), request("c"))
    await asyncio.sleep(0.05)
    gone.cancel()
    other.cancel()
    await asyncio.gather(gone, other, return_exceptions=True)
    tower.may_go_on.set()
    await asyncio.gather(*first, stays)
    assert tower.batches == [["a"], ["c"]]


async def test_those_who_wait_at_the_end_are_told(tower):
    queue = EncodeQueue(tower.encode, tower.stored.__contains__, MAX_BATCH_TOKENS)
    tower.may_go_on.clear()
    tasks = start(queue, request("a"))
    await until(lambda: bool(tower.batches))
    tasks += start(queue, request("b"))
    await asyncio.sleep(0.05)
    await queue.close()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
