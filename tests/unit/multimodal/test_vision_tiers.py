import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from multimodal.vision_tier import Tier
from multimodal.vision_tiers import VisionTiers

KEYS = [f"{number:064x}" for number in range(0x1000, 0x1040)]
WAIT_S = 60


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make_embedding(number: int = 0) -> torch.Tensor:
    return torch.full((2, 16), number, dtype=torch.bfloat16)


class RatedTier(Tier):
    """A tier whose rate is what a test says."""

    rate: float | None = None

    @property
    def load_bytes_per_s(self) -> float | None:
        return self.rate


def make_tier(name: str, directory: Path) -> RatedTier:
    return RatedTier(name, directory / name, "0a" * 16, 1 << 20, fsync=False)


def set_encode_rate(tiers: VisionTiers, bytes_per_s: int) -> None:
    for _ in range(100):
        tiers.observe_encoding(bytes_per_s, 1.0)


@pytest.fixture
def host(tmp_path: Path) -> RatedTier:
    return make_tier("host", tmp_path)


@pytest.fixture
def disk(tmp_path: Path) -> RatedTier:
    return make_tier("disk", tmp_path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tiers(host: RatedTier, disk: RatedTier, clock: Clock) -> Iterator[VisionTiers]:
    tiers = VisionTiers([host, disk], clock=clock)
    tiers.start()
    yield tiers
    tiers.close(WAIT_S)


@pytest.fixture
def slow_disk(tiers: VisionTiers, host: RatedTier, disk: RatedTier) -> VisionTiers:
    """The tiers when loading from the disk takes twice as long as encoding, and `KEYS[0]` in it."""
    disk.store(KEYS[0], make_embedding(1))
    host.rate = 10_000
    disk.rate = 500
    set_encode_rate(tiers, 1000)
    return tiers


def test_an_embedding_is_stored_in_every_tier(
    tiers: VisionTiers, host: RatedTier, disk: RatedTier
) -> None:
    tiers.store(KEYS[0], make_embedding(5))
    tiers.close(WAIT_S)
    for tier in (host, disk):
        found = tier.load(KEYS[0])
        assert found is not None
        assert torch.equal(found, make_embedding(5))


def test_an_embedding_is_loaded_from_the_fastest_tier(
    tiers: VisionTiers, host: RatedTier, disk: Tier
) -> None:
    host.store(KEYS[0], make_embedding(1))
    disk.store(KEYS[0], make_embedding(1))
    found = tiers.load(KEYS[0])
    assert found is not None
    assert found.tier == "host"
    assert disk.counts.hits == 0


def test_what_no_tier_has_is_a_miss(tiers: VisionTiers) -> None:
    assert not tiers.contains(KEYS[0])
    assert tiers.load(KEYS[0]) is None
    assert [counts.misses for counts in tiers.counts().values()] == [1, 1]


def test_what_a_slower_tier_has_is_written_to_the_faster_one(
    tiers: VisionTiers, host: RatedTier, disk: Tier
) -> None:
    disk.store(KEYS[0], make_embedding(3))
    assert tiers.contains(KEYS[0])
    found = tiers.load(KEYS[0])
    assert found is not None
    assert found.tier == "disk"
    tiers.close(WAIT_S)
    promoted = host.load(KEYS[0])
    assert promoted is not None
    assert torch.equal(promoted, make_embedding(3))


def test_the_first_job_is_a_scan(host: RatedTier, disk: RatedTier, tmp_path: Path) -> None:
    make_tier("disk", tmp_path).store(KEYS[0], make_embedding())
    tiers = VisionTiers([host, disk])
    assert tiers.num_bytes() == {"host": 0, "disk": 0}
    tiers.start()
    tiers.close(WAIT_S)
    assert tiers.num_bytes()["disk"] > 0


def test_an_embedding_can_be_had_later(tiers: VisionTiers, host: RatedTier) -> None:
    threads: list[str] = []

    def make() -> torch.Tensor:
        threads.append(threading.current_thread().name)
        return make_embedding(2)

    tiers.store(KEYS[0], make, make_embedding().nbytes)
    tiers.close(WAIT_S)
    assert threads == ["vision-tiers"]
    assert host.contains(KEYS[0])


def test_an_embedding_that_is_there_is_not_made(
    tiers: VisionTiers, host: RatedTier, disk: RatedTier
) -> None:
    for tier in (host, disk):
        tier.store(KEYS[0], make_embedding())
    is_made = threading.Event()

    def make() -> torch.Tensor:
        is_made.set()
        return make_embedding()

    tiers.store(KEYS[0], make, 64)
    tiers.close(WAIT_S)
    assert not is_made.is_set()
    assert tiers.num_dropped == 0


def test_an_embedding_that_cannot_be_made_is_dropped(tiers: VisionTiers, host: RatedTier) -> None:
    def fail() -> torch.Tensor:
        raise RuntimeError("the device is lost")

    tiers.store(KEYS[0], fail, 64)
    tiers.store(KEYS[1], make_embedding())
    tiers.close(WAIT_S)
    assert tiers.num_dropped == 1
    assert host.contains(KEYS[1])


def test_an_embedding_to_be_made_needs_its_size(tiers: VisionTiers) -> None:
    with pytest.raises(ValueError, match="num_bytes"):
        tiers.store(KEYS[0], make_embedding)


class BlockedWriter:
    """Holds the writing thread of `tiers` until it is released."""

    def __init__(self, tiers: VisionTiers, key: str = KEYS[-1]) -> None:
        self._is_held, self._is_released = threading.Event(), threading.Event()
        tiers.store(key, self._wait, 0)
        assert self._is_held.wait(WAIT_S)

    def _wait(self) -> torch.Tensor:
        self._is_held.set()
        assert self._is_released.wait(WAIT_S)
        return make_embedding()

    def release(self) -> None:
        self._is_released.set()


def test_what_is_too_much_to_wait_is_dropped(host: RatedTier) -> None:
    tiers = VisionTiers([host], max_pending_bytes=2 * make_embedding().nbytes)
    tiers.start()
    writer = BlockedWriter(tiers)
    for key in KEYS[:3]:
        tiers.store(key, make_embedding())
    assert tiers.num_dropped == 1
    writer.release()
    tiers.close(WAIT_S)
    assert [host.contains(key) for key in KEYS[:3]] == [True, True, False]


def test_who_stores_is_told_whether_it_is_queued(host: RatedTier) -> None:
    tiers = VisionTiers([host], max_pending_bytes=make_embedding().nbytes)
    assert not tiers.store(KEYS[0], make_embedding())
    tiers.start()
    writer = BlockedWriter(tiers)
    assert tiers.store(KEYS[0], make_embedding())
    assert tiers.store(KEYS[0], make_embedding())
    assert not tiers.store(KEYS[1], make_embedding())
    writer.release()
    tiers.close(WAIT_S)
    assert not tiers.store(KEYS[1], make_embedding())


def test_an_embedding_larger_than_all_that_may_wait_is_written(host: RatedTier) -> None:
    tiers = VisionTiers([host], max_pending_bytes=1)
    tiers.start()
    assert tiers.store(KEYS[0], make_embedding())
    tiers.close(WAIT_S)
    assert host.contains(KEYS[0])


def test_an_embedding_waits_once(host: RatedTier) -> None:
    tiers = VisionTiers([host], max_pending_bytes=make_embedding().nbytes)
    tiers.start()
    writer = BlockedWriter(tiers)
    for _ in range(5):
        tiers.store(KEYS[0], make_embedding())
    assert tiers.num_dropped == 0
    writer.release()
    tiers.close(WAIT_S)


def test_room_is_given_back_when_an_embedding_is_written(host: RatedTier) -> None:
    tiers = VisionTiers([host], max_pending_bytes=make_embedding().nbytes)
    tiers.start()
    for position in range(5):
        tiers.store(KEYS[position], make_embedding())
        BlockedWriter(tiers, KEYS[-1 - position]).release()
    tiers.close(WAIT_S)
    assert tiers.num_dropped == 0


def test_close_does_not_wait_for_ever(host: RatedTier) -> None:
    tiers = VisionTiers([host])
    tiers.start()
    writer = BlockedWriter(tiers)
    tiers.store(KEYS[0], make_embedding())
    tiers.close(timeout_s=0)
    writer.release()
    tiers.close(WAIT_S)
    assert not host.contains(KEYS[0])
    assert tiers.num_dropped == 1


@pytest.mark.parametrize("is_closed", [False, True])
def test_nothing_is_stored_outside_start_and_close(host: RatedTier, is_closed: bool) -> None:
    tiers = VisionTiers([host])
    if is_closed:
        tiers.start()
        tiers.close(WAIT_S)
    tiers.store(KEYS[0], make_embedding())
    assert tiers.num_dropped == 1
    tiers.close(WAIT_S)


def test_tiers_can_be_started_in_a_forked_child(host: RatedTier) -> None:
    tiers = VisionTiers([host])
    child = os.fork()
    if child == 0:
        tiers.start()
        tiers.store(KEYS[0], make_embedding())
        tiers.close(WAIT_S)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert host.contains(KEYS[0])


def test_the_rate_of_encoding_is_known_after_eight_observations(tiers: VisionTiers) -> None:
    for _ in range(7):
        tiers.observe_encoding(100, 2.0)
    assert tiers.encode_bytes_per_s is None
    tiers.observe_encoding(100, 2.0)
    assert tiers.encode_bytes_per_s == pytest.approx(50)


def test_a_tier_slower_than_encoding_is_bypassed(slow_disk: VisionTiers) -> None:
    assert slow_disk.bypassed == {"disk"}
    assert not slow_disk.contains(KEYS[0])
    assert slow_disk.load(KEYS[0]) is None
    assert slow_disk.counts()["disk"].hits == 0


def test_a_bypassed_tier_is_still_written(slow_disk: VisionTiers, disk: RatedTier) -> None:
    slow_disk.store(KEYS[1], make_embedding())
    slow_disk.close(WAIT_S)
    assert disk.contains(KEYS[1])


def test_a_tier_is_not_bypassed_before_both_rates_are_known(
    tiers: VisionTiers, disk: RatedTier
) -> None:
    disk.rate = 500
    assert tiers.bypassed == frozenset()


def test_a_bypassed_tier_is_measured_once_in_a_while(slow_disk: VisionTiers, clock: Clock) -> None:
    clock.now = 29.0
    assert slow_disk.load(KEYS[0]) is None
    clock.now = 31.0
    assert slow_disk.contains(KEYS[0])
    assert slow_disk.load(KEYS[0]) is not None
    assert slow_disk.bypassed == {"disk"}
    clock.now = 60.0
    assert slow_disk.bypassed == {"disk"}
    clock.now = 62.0
    assert slow_disk.bypassed == frozenset()


def test_a_miss_does_not_use_up_the_measurement(slow_disk: VisionTiers, clock: Clock) -> None:
    clock.now = 31.0
    assert slow_disk.load(KEYS[1]) is None
    assert slow_disk.load(KEYS[0]) is not None


def test_a_tier_that_has_become_faster_is_used_again(
    slow_disk: VisionTiers, disk: RatedTier, clock: Clock
) -> None:
    disk.rate = 2000
    clock.now = 31.0
    slow_disk.load(KEYS[0])
    assert slow_disk.bypassed == frozenset()
    clock.now = 32.0
    assert slow_disk.contains(KEYS[0])


def test_a_change_is_logged_once(
    caplog: pytest.LogCaptureFixture, slow_disk: VisionTiers, disk: RatedTier, clock: Clock
) -> None:
    caplog.set_level(logging.INFO)
    set_encode_rate(slow_disk, 1000)
    assert caplog.messages == []
    disk.rate = 2000
    set_encode_rate(slow_disk, 1000)
    disk.rate = 500
    set_encode_rate(slow_disk, 1000)
    assert [" ".join(message.split()[:7]) for message in caplog.messages] == [
        "the disk vision cache is used again:",
        "the disk vision cache is bypassed: it",
    ]


@pytest.mark.parametrize(
    ("told", "is_contained"), [(["disk"], False), (["host"], True), ([], True)]
)
def test_a_process_can_be_told_what_to_bypass(
    slow_disk: VisionTiers, told: list[str], is_contained: bool
) -> None:
    slow_disk.set_bypassed(told)
    set_encode_rate(slow_disk, 10**6)
    assert slow_disk.bypassed == frozenset(told)
    assert slow_disk.contains(KEYS[0]) is is_contained
    assert (slow_disk.load(KEYS[0]) is not None) is is_contained


def test_many_threads_store_and_load(tiers: VisionTiers) -> None:
    wrong: list[int] = []

    def use(start: int) -> None:
        for number in range(start, start + 200):
            key = KEYS[number % 32]
            tiers.store(key, make_embedding(number % 32))
            found = tiers.load(key)
            if found is not None and found.embedding[0, 0] != number % 32:
                wrong.append(number)

    threads = [threading.Thread(target=use, args=(7 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tiers.close(WAIT_S)
    assert wrong == []
    assert all(tiers.contains(key) for key in KEYS[:32])


def test_only_the_tiers_that_are_named_are_cleared(
    tiers: VisionTiers, host: RatedTier, disk: RatedTier
) -> None:
    for tier in (host, disk):
        tier.store(KEYS[0], make_embedding())
    tiers.clear(["device", "disk"])
    assert (host.contains(KEYS[0]), disk.contains(KEYS[0])) == (True, False)
    tiers.clear(["host"])
    assert not tiers.contains(KEYS[0])
