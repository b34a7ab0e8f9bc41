from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from multimodal import vllm_encoder_cache
from multimodal.vllm_encoder_cache import VisionEncoderCacheManager

ROW_BYTES = 48
VLLM_ROWS = 1000  # vLLM's own choice
MAX_MODEL_LEN = 400
NUM_ROWS = 10  # of each item
KEYS = ["a" * 64, "b" * 64, "c" * 64]
LARGE = 10**6


class FakeCache:
    """The scheduler's side: which items can be put on the device, and what it was told."""

    row_bytes = ROW_BYTES

    def __init__(self) -> None:
        self.cannot_be_had: set[str] = set()
        self.hits: list[tuple[str, int]] = []
        self.is_on_device: Any = None
        self.describe_device: Any = None

    def can_allocate(self, request: Any, index: int) -> bool:
        return request.mm_features[index].identifier not in self.cannot_be_had

    def on_device_hit(self, request: Any, index: int) -> bool:
        is_new = (request.request_id, index) not in self.hits
        if is_new:
            self.hits.append((request.request_id, index))
        return is_new


@pytest.fixture
def cache() -> FakeCache:
    return FakeCache()


@pytest.fixture
def manager(cache: FakeCache) -> VisionEncoderCacheManager:
    """Has room for two items."""
    return VisionEncoderCacheManager(2 * NUM_ROWS, cache)  # type: ignore[arg-type]


def make_request(request_id: str, keys: Sequence[str] = KEYS) -> Any:
    return SimpleNamespace(
        request_id=request_id,
        mm_features=[SimpleNamespace(identifier=key) for key in keys],
        get_num_encoder_embeds=lambda index: NUM_ROWS,
    )


def can_allocate(manager: VisionEncoderCacheManager, request: Any, index: int) -> bool:
    return manager.can_allocate(request, index, LARGE, 0)


def allocate(manager: VisionEncoderCacheManager, request: Any, *indices: int) -> None:
    for index in indices:
        assert can_allocate(manager, request, index)
        manager.allocate(request, index)


# ---- the budget


@pytest.mark.parametrize(
    ("device_bytes", "num_rows"),
    [
        (None, VLLM_ROWS),
        (5000 * ROW_BYTES, 5000),
        (500 * ROW_BYTES + ROW_BYTES - 1, 500),
        (0, MAX_MODEL_LEN),
        (MAX_MODEL_LEN * ROW_BYTES - 1, MAX_MODEL_LEN),
    ],
)
def test_bytes_are_rows_and_at_least_one_request_fits(
    cache: FakeCache,
    monkeypatch: pytest.MonkeyPatch,
    device_bytes: int | None,
    num_rows: int,
) -> None:
    assert make_manager(cache, monkeypatch, device_bytes).cache_size == num_rows


def test_the_least_is_vllm_s_own_choice_if_that_is_smaller(
    cache: FakeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = make_manager(cache, monkeypatch, 0, max_model_len=2 * VLLM_ROWS)
    assert manager.cache_size == VLLM_ROWS


def make_manager(
    cache: FakeCache,
    monkeypatch: pytest.MonkeyPatch,
    device_bytes: int | None,
    max_model_len: int = MAX_MODEL_LEN,
) -> VisionEncoderCacheManager:
    config: Any = SimpleNamespace(
        ec_manager_config=SimpleNamespace(manager_config={"device_bytes": device_bytes}),
        model_config=SimpleNamespace(max_model_len=max_model_len),
    )
    caches = {id(config): cache}
    monkeypatch.setattr(vllm_encoder_cache, "cache_of", lambda config: caches[id(config)])
    return VisionEncoderCacheManager.create_manager(cache_size=VLLM_ROWS, vllm_config=config)


# ---- what may be allocated


def test_an_item_that_can_be_had_may_be_allocated(manager: VisionEncoderCacheManager) -> None:
    assert can_allocate(manager, make_request("r"), 0)


def test_an_item_that_cannot_be_had_may_not_be_allocated(
    manager: VisionEncoderCacheManager, cache: FakeCache
) -> None:
    cache.cannot_be_had = {KEYS[0]}
    request = make_request("r")
    assert not can_allocate(manager, request, 0)
    assert can_allocate(manager, request, 1)


def test_nothing_is_evicted_for_an_item_that_cannot_be_had(
    manager: VisionEncoderCacheManager, cache: FakeCache
) -> None:
    request = make_request("r")
    allocate(manager, request, 0, 1)
    manager.free(request)
    cache.cannot_be_had = {KEYS[2]}
    assert not can_allocate(manager, request, 2)
    assert manager.get_freed_mm_hashes() == []


def test_the_encoder_s_budget_is_kept(manager: VisionEncoderCacheManager) -> None:
    request = make_request("r")
    assert not manager.can_allocate(request, 0, NUM_ROWS - 1, 0)
    assert manager.can_allocate(request, 0, NUM_ROWS, NUM_ROWS)
    assert not manager.can_allocate(request, 0, NUM_ROWS, NUM_ROWS + 1)


# ---- what it tells


def test_the_scheduler_s_side_learns_what_is_on_the_device(
    manager: VisionEncoderCacheManager, cache: FakeCache
) -> None:
    request = make_request("r")
    assert not cache.is_on_device(KEYS[0])
    allocate(manager, request, 0)
    assert cache.is_on_device(KEYS[0])
    manager.free(request)
    assert cache.is_on_device(KEYS[0])
    allocate(manager, request, 1, 2)
    assert not cache.is_on_device(KEYS[0])


def test_nothing_is_on_the_device_after_a_reset(
    manager: VisionEncoderCacheManager, cache: FakeCache
) -> None:
    allocate(manager, make_request("r"), 0)
    manager.reset()
    assert not cache.is_on_device(KEYS[0])


def test_a_hit_is_counted_once_per_item_and_request(
    manager: VisionEncoderCacheManager, cache: FakeCache
) -> None:
    allocate(manager, make_request("first"), 0, 1)
    for name in ("second", "third"):
        request = make_request(name)
        for _ in range(3):
            assert manager.check_and_update_cache(request, 0)
        assert manager.check_and_update_cache(request, 1)
        assert not manager.check_and_update_cache(request, 2)
    assert manager.describe()["hits"] == 4
    assert cache.hits == [("second", 0), ("second", 1), ("third", 0), ("third", 1)]


def test_a_request_that_waits_for_kv_blocks_hits_once(
    manager: VisionEncoderCacheManager, cache: FakeCache
) -> None:
    allocate(manager, make_request("first"), 0)
    request = make_request("r")
    for _ in range(50):  # as vLLM does at every step in which it finds no blocks
        assert manager.check_and_update_cache(request, 0)
        manager.free(request)
    assert manager.describe()["hits"] == 1


def test_an_item_twice_in_a_request_is_a_hit(
    manager: VisionEncoderCacheManager, cache: FakeCache
) -> None:
    request = make_request("r", [KEYS[0], KEYS[0]])
    allocate(manager, request, 0)
    assert manager.check_and_update_cache(request, 1)
    assert cache.hits == [("r", 1)]


def test_evictions_are_counted(manager: VisionEncoderCacheManager) -> None:
    first, second = make_request("first"), make_request("second")
    allocate(manager, first, 0, 1)
    assert not can_allocate(manager, second, 2)
    assert manager.describe()["evictions"] == 0
    manager.free(first)
    allocate(manager, second, 2)
    assert manager.describe()["evictions"] == 1
    assert manager.get_freed_mm_hashes() == [KEYS[0]]


def test_evictions_of_several_steps_add_up(manager: VisionEncoderCacheManager) -> None:
    for name in ("first", "second", "third"):
        request = make_request(name, [name, f"other of {name}"])
        allocate(manager, request, 0, 1)
        manager.free(request)
        manager.get_freed_mm_hashes()
    assert manager.describe()["evictions"] == 4


def test_bytes_are_those_of_all_rows(manager: VisionEncoderCacheManager, cache: FakeCache) -> None:
    request = make_request("r")
    assert manager.describe()["num_bytes"] == 0
    allocate(manager, request, 0)
    manager.free(request)
    described = cache.describe_device()
    assert described["num_bytes"] == NUM_ROWS * ROW_BYTES
    assert described["max_bytes"] == 2 * NUM_ROWS * ROW_BYTES
