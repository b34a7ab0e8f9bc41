import asyncio
import logging
from collections.abc import Callable, Sequence

import pytest
import torch

from multimodal.errors import MediaCorrupt, MediaOverload
from multimodal.items import PlacedItem, VisualItem
from multimodal.patch_handover import PatchHandover
from server import patch_supply
from server.engine import EngineRequest, SamplingOptions
from server.errors import EncoderUnavailable
from server.patch_supply import PatchSupply

KEYS = ["a" * 64, "b" * 64, "c" * 64]


def make_patches(key: str) -> torch.Tensor:
    return torch.full((16, 768), ord(key[0]), dtype=torch.uint8)


class Loader:
    """A request's `load_patches`: keeps what it was asked, and raises what it is told to."""

    def __init__(self, *failures: Exception) -> None:
        self.asked: list[list[str]] = []
        self.failures = list(failures)
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def __call__(self, keys) -> dict[str, torch.Tensor]:
        self.asked.append(list(keys))
        await self.may_end.wait()
        if self.failures:
            raise self.failures.pop(0)
        return {key: make_patches(key) for key in keys}


def make_request(name: str, load_patches: Loader, keys: Sequence[str] = KEYS) -> EngineRequest:
    items = tuple(
        PlacedItem(VisualItem("image", key, 4, 4), 10 * position, 4)
        for position, key in enumerate(keys)
    )
    return EngineRequest(name, (1, 2, 3), items, SamplingOptions(max_tokens=1), load_patches)


@pytest.fixture
def handover(tmp_path) -> PatchHandover:
    return PatchHandover(str(tmp_path / "patches"))


@pytest.fixture
def aborted() -> list[str]:
    return []


@pytest.fixture
def supply(handover, aborted) -> PatchSupply:
    async def abort(request_id: str) -> None:
        aborted.append(request_id)

    return PatchSupply(lambda engine_index: handover, abort)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.001)


async def taken(handover: PatchHandover, key: str) -> torch.Tensor:
    found: list[torch.Tensor] = []

    def is_there() -> bool:
        patches = handover.take(key)
        if patches is not None:
            found.append(patches)
        return bool(found)

    await until(is_there)
    return found[0]


async def test_the_engine_gets_the_patches_that_it_asks_for(supply, handover, aborted):
    loader = Loader()
    with supply.serving(make_request("r", loader)) as supplied:
        supply.ask([KEYS[0], KEYS[2]], 0)
        for key in (KEYS[0], KEYS[2]):
            assert torch.equal(await taken(handover, key), make_patches(key))
    assert loader.asked == [[KEYS[0], KEYS[2]]]
    assert handover.take(KEYS[1]) is None
    assert supplied.failure is None
    assert aborted == []


async def test_nothing_is_loaded_before_it_is_asked_for(supply):
    loader = Loader()
    with supply.serving(make_request("r", loader)):
        supply.ask([], 0)
        await asyncio.sleep(0)
    assert loader.asked == []


async def test_nothing_is_loaded_that_nobody_waits_for(supply, handover):
    waiting, ended = Loader(), Loader()
    with supply.serving(make_request("ended", ended, [KEYS[1]])):
        pass
    with supply.serving(make_request("waiting", waiting, [KEYS[0]])):
        supply.ask([KEYS[1], KEYS[2], KEYS[0]], 0)
        await taken(handover, KEYS[0])
    assert waiting.asked == [[KEYS[0]]]
    assert ended.asked == []


async def test_the_items_of_several_requests_are_asked_of_each(supply, handover):
    first, second = Loader(), Loader()
    with (
        supply.serving(make_request("first", first, KEYS[:1])),
        supply.serving(make_request("second", second, KEYS[1:])),
    ):
        supply.ask(KEYS, 0)
        for key in KEYS:
            await taken(handover, key)
    assert (first.asked, second.asked) == ([KEYS[:1]], [KEYS[1:]])


async def test_an_item_of_two_requests_is_loaded_once(supply, handover):
    first, second = Loader(), Loader()
    with supply.serving(make_request("first", first)), supply.serving(make_request("two", second)):
        supply.ask([KEYS[0]], 0)
        await taken(handover, KEYS[0])
    assert len(first.asked + second.asked) == 1


async def test_a_request_that_remains_is_asked_when_the_other_has_ended(supply, handover):
    first, second = Loader(), Loader()
    with supply.serving(make_request("second", second)):
        with supply.serving(make_request("first", first)):
            pass
        supply.ask([KEYS[0]], 0)
        await taken(handover, KEYS[0])
    assert (first.asked, second.asked) == ([], [[KEYS[0]]])


async def test_patches_that_nobody_waits_for_any_more_are_removed(supply, handover, tmp_path):
    loader = Loader()
    loader.may_end.clear()
    with supply.serving(make_request("r", loader)):
        supply.ask([KEYS[0]], 0)
        await until(lambda: loader.asked != [])
    loader.may_end.set()
    await until(lambda: not supply._tasks)
    assert handover.take(KEYS[0]) is None


async def test_patches_not_taken_before_the_end_are_removed(supply, handover):
    with supply.serving(make_request("r", Loader())):
        supply.ask([KEYS[0]], 0)
        await until(lambda: not supply._tasks)
    assert handover.take(KEYS[0]) is None


async def test_another_request_that_waits_for_the_same_item_is_asked_next(supply, handover):
    failing, loader = Loader(OSError("disk full")), Loader()
    first = supply.serving(make_request("first", failing))
    with first as failed, supply.serving(make_request("second", loader)) as served:
        supply.ask([KEYS[0]], 0)
        await taken(handover, KEYS[0])
        assert failed.failure is not None
        assert served.failure is None


async def test_an_item_twice_in_a_request_is_served(supply, handover):
    loader = Loader()
    with supply.serving(make_request("r", loader, [KEYS[0], KEYS[0]])):
        supply.ask([KEYS[0]], 0)
        await taken(handover, KEYS[0])
    supply.ask([KEYS[0]], 0)
    await asyncio.sleep(0)
    assert loader.asked == [[KEYS[0]]]


async def test_the_same_item_may_be_asked_for_again(supply, handover):
    loader = Loader()
    with supply.serving(make_request("r", loader)):
        for _ in range(2):
            supply.ask([KEYS[0]], 0)
            await taken(handover, KEYS[0])
    assert len(loader.asked) == 2


async def test_a_request_whose_patches_cannot_be_had_is_aborted(supply, handover, aborted, caplog):
    error = MediaCorrupt("the image cannot be decoded", "corrupt_image")
    with supply.serving(make_request("r", Loader(error))) as supplied:
        supply.ask([KEYS[0]], 0)
        await until(lambda: aborted != [])
        assert supplied.failure is error
    assert aborted == ["r"]
    assert handover.take(KEYS[0]) is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


async def test_a_request_waits_for_room_for_its_patches(supply, handover, aborted, monkeypatch):
    monkeypatch.setattr(patch_supply, "_RETRY_INTERVAL_S", 0.0)
    loader = Loader(*[MediaOverload("too much", "overloaded")] * 3)
    with supply.serving(make_request("r", loader)) as supplied:
        supply.ask([KEYS[0]], 0)
        assert torch.equal(await taken(handover, KEYS[0]), make_patches(KEYS[0]))
    assert len(loader.asked) == 4
    assert (supplied.failure, aborted) == (None, [])


async def test_a_request_does_not_wait_for_room_for_ever(supply, aborted, monkeypatch):
    monkeypatch.setattr(patch_supply, "_MAX_WAIT_S", 0.01)
    loader = Loader(*[MediaOverload("too much", "overloaded")] * 1000)
    with supply.serving(make_request("r", loader)) as supplied:
        supply.ask([KEYS[0]], 0)
        await until(lambda: aborted != [])
        assert supplied.failure is not None


async def test_a_request_whose_patches_cannot_be_written_is_aborted(
    supply, handover, aborted, monkeypatch
):
    def fail(key, patches):
        raise OSError("no space is left")

    monkeypatch.setattr(handover, "put", fail)
    with supply.serving(make_request("r", Loader())) as supplied:
        supply.ask([KEYS[0]], 0)
        await until(lambda: aborted != [])
        assert isinstance(supplied.failure, OSError)


async def test_the_failure_of_one_request_does_not_disturb_another(supply, handover, aborted):
    failing, working = Loader(ValueError("wrong")), Loader()
    with (
        supply.serving(make_request("failing", failing, KEYS[:1])),
        supply.serving(make_request("working", working, KEYS[1:])) as supplied,
    ):
        supply.ask(KEYS[:2], 0)
        await taken(handover, KEYS[1])
        await until(lambda: aborted != [])
        assert supplied.failure is None
    assert aborted == ["failing"]


async def test_a_request_is_forgotten_however_it_ends(supply):
    loader = Loader()
    with pytest.raises(KeyError), supply.serving(make_request("r", loader)):
        raise KeyError
    supply.ask(KEYS, 0)
    await asyncio.sleep(0)
    assert loader.asked == []


async def test_each_engine_gets_its_own(tmp_path):
    async def abort(request_id: str) -> None:
        raise AssertionError(request_id)

    handovers = [PatchHandover(str(tmp_path), index) for index in range(2)]
    supply = PatchSupply(handovers.__getitem__, abort)
    with supply.serving(make_request("a", Loader())):
        for engine_index in range(2):
            supply.ask([KEYS[0]], engine_index)
        for handover in handovers:
            assert torch.equal(await taken(handover, KEYS[0]), make_patches(KEYS[0]))
        supply.ask([KEYS[1]], 1)
        await until(lambda: any(tmp_path.glob("1/*")))
        assert not any(tmp_path.glob("0/*"))
    await until(lambda: not any(tmp_path.glob("*/*")))


# ---- an encoder in another process


class Encoder:
    """Keeps what it was sent, and raises what it is told to."""

    def __init__(self, *failures: Exception) -> None:
        self.items: list[VisualItem] = []
        self.failures = list(failures)
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def encode(self, item: VisualItem) -> None:
        self.items.append(item)
        await self.may_end.wait()
        if self.failures:
            raise self.failures.pop(0)


def make_remote_supply(handover, aborted, encoder: Encoder) -> PatchSupply:
    async def abort(request_id: str) -> None:
        aborted.append(request_id)

    return PatchSupply(lambda engine_index: handover, abort, encoder)


async def test_the_encoder_gets_the_patches_with_their_grid(handover, aborted):
    encoder = Encoder()
    supply = make_remote_supply(handover, aborted, encoder)
    with supply.serving(make_request("r", Loader())) as supplied:
        supply.ask([KEYS[0], KEYS[2]], 0)
        await until(lambda: not supply._tasks)
    assert [(item.key, item.grid_h, item.grid_w) for item in encoder.items] == [
        (KEYS[0], 4, 4),
        (KEYS[2], 4, 4),
    ]
    assert torch.equal(encoder.items[0].patches, make_patches(KEYS[0]))
    assert handover.take(KEYS[0]) is None
    assert (supplied.failure, aborted) == (None, [])


async def test_all_who_wait_for_an_item_that_is_not_encoded_fail_together(handover, aborted):
    error = EncoderUnavailable("nobody there", "encoder_unreachable")
    encoder = Encoder(error)
    encoder.may_end.clear()
    supply = make_remote_supply(handover, aborted, encoder)
    one, two = (supply.serving(make_request(name, Loader(), KEYS[:1])) for name in ("one", "two"))
    other = supply.serving(make_request("other", Loader(), KEYS[1:]))
    with one as first, two as second, other as third:
        supply.ask(KEYS[:1], 0)
        await until(lambda: len(encoder.items) == 1)
        encoder.may_end.set()
        await until(lambda: len(aborted) == 2)
        assert first.failure is error
        assert second.failure is error
        assert third.failure is None
    assert aborted == ["one", "two"]
    assert len(encoder.items) == 1


async def test_the_encoder_is_asked_again_by_the_next_request(handover, aborted):
    encoder = Encoder(EncoderUnavailable("nobody there", "encoder_unreachable"))
    supply = make_remote_supply(handover, aborted, encoder)
    for name in ("one", "two"):
        with supply.serving(make_request(name, Loader(), KEYS[:1])):
            supply.ask(KEYS[:1], 0)
            await until(lambda: not supply._tasks)
    assert aborted == ["one"]
    assert len(encoder.items) == 2


async def test_few_requests_have_their_patches_here_while_the_encoder_works(
    handover, aborted, monkeypatch
):
    monkeypatch.setattr(patch_supply, "_MAX_ENCODING", 1)
    encoder, loaders = Encoder(), [Loader(), Loader()]
    encoder.may_end.clear()
    supply = make_remote_supply(handover, aborted, encoder)
    one = supply.serving(make_request("one", loaders[0], KEYS[:1]))
    two = supply.serving(make_request("two", loaders[1], KEYS[1:2]))
    with one, two:
        supply.ask(KEYS[:2], 0)
        await until(lambda: len(encoder.items) == 1)
        await asyncio.sleep(0.02)
        assert sum(len(loader.asked) for loader in loaders) == 1
        encoder.may_end.set()
        await until(lambda: not supply._tasks)
    assert len(encoder.items) == 2
