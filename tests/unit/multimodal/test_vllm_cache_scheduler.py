import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.v1.request import RequestStatus

from multimodal import vllm_cache_scheduler
from multimodal.items import PlacedItem, VisualItem
from multimodal.patch_handover import PatchHandover
from multimodal.vision_tier import TierCounts
from multimodal.vision_tiers import LoadedEntry
from multimodal.vllm_cache_scheduler import (
    Patches,
    SchedulerCache,
    StepLoads,
    cache_of,
    register_cache,
)
from multimodal.vllm_input import engine_input

WAIT_S = 10
KEY, OTHER_KEY, THIRD_KEY = "a" * 64, "b" * 64, "c" * 64
GRID = (4, 6)  # in patches; a row of an embedding is a square of four
NUM_ROWS = 6
ROW_SHAPE = (24,)  # a hidden size of 8 and two DeepStack levels
DTYPE = torch.bfloat16
ITEM_BYTES = NUM_ROWS * ROW_SHAPE[0] * DTYPE.itemsize
WINDOW = 100


class FakeTiers:
    """Entries in memory. `hold` keeps loads from ending until `release`."""

    def __init__(self) -> None:
        self.entries: dict[str, LoadedEntry] = {}
        self.loaded: list[str] = []
        self.observed: list[tuple[int, float]] = []
        self.num_dropped = 3
        self.bypassed = frozenset({"disk"})
        self.encode_bytes_per_s: float | None = None
        self._released = threading.Event()
        self.release()

    def hold(self) -> None:
        self._released.clear()

    def release(self) -> None:
        self._released.set()

    def put(self, key: str, embedding: torch.Tensor, tier: str = "host") -> None:
        self.entries[key] = LoadedEntry(embedding, tier)

    def load(self, key: str) -> LoadedEntry | None:
        self.loaded.append(key)
        assert self._released.wait(WAIT_S)
        return self.entries.get(key)

    def contains(self, key: str) -> bool:
        return key in self.entries

    def observe_encoding(self, num_bytes: int, seconds: float) -> None:
        self.observed.append((num_bytes, seconds))

    def counts(self) -> dict[str, TierCounts]:
        return {"host": TierCounts(hits=2, bytes_written=10)}

    def max_bytes(self) -> dict[str, int]:
        return {"host": 1000}

    def num_bytes(self) -> dict[str, int]:
        return {"host": 500}

    def load_bytes_per_s(self) -> dict[str, float | None]:
        return {"host": None}


def make_config(engine_id: str = "engine") -> Any:
    return SimpleNamespace(
        model_config=SimpleNamespace(
            dtype=DTYPE,
            hf_config=SimpleNamespace(
                text_config=SimpleNamespace(hidden_size=8),
                vision_config=SimpleNamespace(deepstack_visual_indexes=[1, 3]),
            ),
        ),
        scheduler_config=SimpleNamespace(max_num_batched_tokens=WINDOW),
        ec_transfer_config=SimpleNamespace(engine_id=engine_id),
    )


@pytest.fixture
def tiers() -> FakeTiers:
    return FakeTiers()


@pytest.fixture
def handover(tmp_path: Path) -> PatchHandover:
    return PatchHandover(str(tmp_path / "patches"))


@pytest.fixture
def cache(tiers: FakeTiers, handover: PatchHandover) -> Iterator[SchedulerCache]:
    cache = SchedulerCache(make_config(), tiers, handover)  # type: ignore[arg-type]
    yield cache
    tiers.release()
    cache.close()


def make_embedding(number: int = 0) -> torch.Tensor:
    return torch.full((NUM_ROWS, *ROW_SHAPE), number, dtype=DTYPE)


def make_patches(number: int = 0) -> torch.Tensor:
    return torch.full((GRID[0] * GRID[1], 768), number, dtype=torch.uint8)


def make_feature(key: str, offset: int = 0, *, patches: torch.Tensor | None = None) -> Any:
    """An item of a request as vLLM has it."""
    placed = PlacedItem(VisualItem("image", key, *GRID, patches), offset, NUM_ROWS)
    inputs = engine_input([0] * (offset + NUM_ROWS), [placed])
    return SimpleNamespace(
        identifier=key,
        modality="image",
        data=inputs["mm_kwargs"]["image"][0],
        mm_position=inputs["mm_placeholders"]["image"][0],
    )


def make_request(request_id: str, *features: Any, **fields: Any) -> Any:
    return SimpleNamespace(
        request_id=request_id,
        mm_features=list(features),
        **{"status": RequestStatus.WAITING, "num_preemptions": 0, **fields},
    )


def wanting(request_id: str, *keys: str, **fields: Any) -> Any:
    """A request without any patches, with an item every ten tokens."""
    features = [make_feature(key, 10 * position) for position, key in enumerate(keys)]
    return make_request(request_id, *features, **fields)


def carrying(request_id: str, *keys: str, **fields: Any) -> Any:
    features = [
        make_feature(key, 10 * position, patches=make_patches(position))
        for position, key in enumerate(keys)
    ]
    return make_request(request_id, *features, **fields)


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def make_available(cache: SchedulerCache, request: Any, position: int = 0) -> None:
    until(lambda: cache.ensure_available(request, position))


def is_missing(cache: SchedulerCache, *keys: str) -> bool:
    """Whether it was found out that the server has to be asked for all of these."""
    return all(
        key in cache._fetches and cache._fetches[key].missing_since is not None for key in keys
    )


def make_missing(cache: SchedulerCache, request: Any) -> None:
    """Let a request wait for patches that the server is asked for."""
    keys = [feature.identifier for feature in request.mm_features]

    def is_so() -> bool:
        assert not cache.ensure_available(request, 0)
        return is_missing(cache, *keys)

    until(is_so)


def put_on_device(cache: SchedulerCache, *keys: str) -> None:
    cache.is_on_device = set(keys).__contains__


def needed(cache: SchedulerCache) -> list[str]:
    stats = cache.take_stats()
    assert stats is not None
    keys: list[str] = stats["needed"]
    return keys


def held(cache: SchedulerCache) -> dict[str, Any]:
    """All that is remembered of requests and items."""
    state = {
        "fetches": cache._fetches,
        "fetched by": {key: value for key, value in cache._fetched_by.items()},
        "carriers": cache._carriers,
        "requests": cache._known_requests,
        "sources": cache._sources,
    }
    return {name: value for name, value in state.items() if value}


# ---- nothing has to be fetched


def test_a_request_without_items_waits_for_nothing(cache: SchedulerCache) -> None:
    assert cache.ensure_available(make_request("r"), 0)


def test_an_item_on_the_device_is_not_looked_for(cache: SchedulerCache, tiers: FakeTiers) -> None:
    put_on_device(cache, KEY)
    assert cache.ensure_available(wanting("r", KEY), 0)
    assert tiers.loaded == []


def test_carried_patches_are_left_to_the_encoder(cache: SchedulerCache, tiers: FakeTiers) -> None:
    request = carrying("r", KEY)
    assert cache.ensure_available(request, 0)
    assert not cache.has_fetched(KEY)
    assert cache.can_allocate(request, 0)
    cache.on_allocated(request, 0)
    assert cache.take_loads() == StepLoads()
    assert tiers.loaded == []


def test_items_outside_the_window_are_not_looked_for(
    cache: SchedulerCache, tiers: FakeTiers
) -> None:
    request = make_request("r", make_feature(KEY, 0), make_feature(OTHER_KEY, 10 + WINDOW))
    assert cache.ensure_available(request, 10)
    assert tiers.loaded == []


@pytest.mark.parametrize("position", [11, 10 + WINDOW + NUM_ROWS - 1])
def test_an_item_that_begins_or_ends_in_the_window_is_looked_for(
    cache: SchedulerCache, tiers: FakeTiers, position: int
) -> None:
    request = make_request("r", make_feature(KEY, 10 + WINDOW))
    assert not cache.ensure_available(request, position)
    until(lambda: tiers.loaded == [KEY])


def test_an_item_that_was_passed_is_not_looked_for(cache: SchedulerCache, tiers: FakeTiers) -> None:
    assert cache.ensure_available(wanting("r", KEY), NUM_ROWS)
    assert tiers.loaded == []


# ---- tiers


def test_an_item_is_available_when_it_has_been_loaded(
    cache: SchedulerCache, tiers: FakeTiers
) -> None:
    tiers.put(KEY, make_embedding())
    tiers.hold()
    request = wanting("r", KEY)
    for _ in range(3):
        assert not cache.ensure_available(request, 0)
        assert not cache.has_fetched(KEY)
        assert not cache.can_allocate(request, 0)
    tiers.release()
    make_available(cache, request)
    assert cache.has_fetched(KEY)
    assert cache.can_allocate(request, 0)
    assert tiers.loaded == [KEY]


@pytest.mark.parametrize("tier", ["host", "disk"])
def test_a_loaded_embedding_goes_out_once(
    cache: SchedulerCache, tiers: FakeTiers, tier: str
) -> None:
    tiers.put(KEY, make_embedding(5), tier)
    request = wanting("r", KEY)
    make_available(cache, request)
    assert cache.take_loads() == StepLoads()
    cache.on_allocated(request, 0)
    assert not cache.has_fetched(KEY)
    loads = cache.take_loads()
    assert loads.embeddings.keys() == {KEY}
    assert torch.equal(loads.embeddings[KEY], make_embedding(5))
    assert loads.patches == {}
    assert cache.take_loads() == StepLoads()
    assert cache.on_finished(request) == {"sources": [tier]}


def test_all_items_of_the_window_are_loaded_at_once(
    cache: SchedulerCache, tiers: FakeTiers
) -> None:
    tiers.hold()
    assert not cache.ensure_available(wanting("r", KEY, OTHER_KEY, THIRD_KEY), 0)
    until(lambda: set(tiers.loaded) == {KEY, OTHER_KEY, THIRD_KEY})


def test_a_request_waits_for_the_last_of_its_items(cache: SchedulerCache, tiers: FakeTiers) -> None:
    tiers.put(KEY, make_embedding())
    request = wanting("r", KEY, OTHER_KEY)
    until(lambda: cache.ensure_available(request, 0) or cache.has_fetched(KEY))
    assert not cache.ensure_available(request, 0)
    put_on_device(cache, OTHER_KEY)
    assert cache.ensure_available(request, 0)


def test_an_item_that_two_requests_need_is_loaded_once(
    cache: SchedulerCache, tiers: FakeTiers
) -> None:
    tiers.put(KEY, make_embedding())
    requests = [wanting("one", KEY), wanting("two", KEY)]
    for request in requests:
        make_available(cache, request)
    assert tiers.loaded == [KEY]


def test_who_has_lost_its_item_to_another_request_has_it_on_the_device(
    cache: SchedulerCache, tiers: FakeTiers
) -> None:
    tiers.put(KEY, make_embedding())
    first, second = wanting("one", KEY), wanting("two", KEY)
    for request in (first, second):
        make_available(cache, request)
    cache.on_allocated(first, 0)
    put_on_device(cache, KEY)
    assert cache.ensure_available(second, 0)
    assert tiers.loaded == [KEY]


def test_an_item_that_has_left_the_device_is_loaded_again(
    cache: SchedulerCache, tiers: FakeTiers
) -> None:
    tiers.put(KEY, make_embedding())
    request = wanting("r", KEY)
    make_available(cache, request)
    cache.on_allocated(request, 0)
    assert not cache.can_allocate(request, 0)
    make_available(cache, request)
    assert tiers.loaded == [KEY, KEY]


def test_what_is_on_the_device_meanwhile_is_let_go(cache: SchedulerCache, tiers: FakeTiers) -> None:
    tiers.put(KEY, make_embedding())
    request = wanting("r", KEY)
    make_available(cache, request)
    put_on_device(cache, KEY)
    assert cache.ensure_available(request, 0)
    assert not cache.has_fetched(KEY)


@pytest.mark.parametrize(
    "embedding",
    [
        torch.zeros(NUM_ROWS + 1, *ROW_SHAPE, dtype=DTYPE),
        torch.zeros(NUM_ROWS, ROW_SHAPE[0] // 3, dtype=DTYPE),
        torch.zeros(NUM_ROWS, *ROW_SHAPE, dtype=torch.float16),
    ],
)
def test_an_entry_of_another_shape_or_type_is_a_miss(
    cache: SchedulerCache, tiers: FakeTiers, embedding: torch.Tensor
) -> None:
    tiers.put(KEY, embedding)
    make_missing(cache, wanting("r", KEY))
    assert needed(cache) == [KEY]


# ---- patches of another request


def test_patches_of_another_request_are_used(cache: SchedulerCache, tiers: FakeTiers) -> None:
    carrier, request = carrying("carrier", KEY), wanting("r", KEY)
    assert cache.ensure_available(carrier, 0)
    make_available(cache, request)
    cache.on_allocated(request, 0)
    loads = cache.take_loads()
    assert loads.embeddings == {}
    assert loads.patches.keys() == {KEY}
    assert loads.patches[KEY].grid == GRID
    assert torch.equal(loads.patches[KEY].patches, make_patches())
    assert cache.on_finished(request) == {"sources": ["encoded"]}


def test_patches_of_a_request_that_has_ended_are_not_used(
    cache: SchedulerCache, tiers: FakeTiers
) -> None:
    carrier = carrying("carrier", KEY)
    assert cache.ensure_available(carrier, 0)
    cache.on_finished(carrier)
    assert not cache.ensure_available(wanting("r", KEY), 0)
    until(lambda: tiers.loaded == [KEY])


def test_patches_that_arrive_with_another_request_end_the_wait(cache: SchedulerCache) -> None:
    request = wanting("r", KEY)
    make_missing(cache, request)
    carrier = carrying("carrier", KEY)
    make_available(cache, carrier)
    assert cache.ensure_available(request, 0)
    cache.on_allocated(carrier, 0)
    assert cache.take_loads().patches.keys() == {KEY}


def test_an_item_twice_in_a_request_needs_its_patches_once(cache: SchedulerCache) -> None:
    request = make_request(
        "r", make_feature(KEY, 0, patches=make_patches(1)), make_feature(KEY, 20)
    )
    assert cache.ensure_available(request, 0)
    cache.on_allocated(request, 0)
    cache.on_device_hit(request, 1)
    loads = cache.take_loads()
    assert torch.equal(loads.patches[KEY].patches, make_patches(1))
    assert cache.on_finished(request) == {"sources": ["encoded", "device"]}


def test_a_preempted_request_is_served_from_its_own_patches(
    cache: SchedulerCache, tiers: FakeTiers
) -> None:
    request = carrying("r", KEY)
    assert cache.ensure_available(request, 0)
    cache.on_allocated(request, 0)
    request.num_preemptions, request.status = 1, RequestStatus.PREEMPTED
    assert not cache.can_allocate(request, 0)
    make_available(cache, request)
    assert cache.has_fetched(KEY)
    assert cache.can_allocate(request, 0)
    cache.on_allocated(request, 0)
    loads = cache.take_loads()
    assert torch.equal(loads.patches[KEY].patches, make_patches())
    assert needed(cache) == []


# ---- patches that the server is asked for


def test_the_server_is_asked_once_for_what_nobody_has(cache: SchedulerCache) -> None:
    requests = [wanting("one", KEY, OTHER_KEY), wanting("two", KEY)]
    for request in requests:
        make_missing(cache, request)
    stats = cache.take_stats()
    assert stats is not None
    assert sorted(stats["needed"]) == [KEY, OTHER_KEY]
    assert stats["retries"] == 2
    for _ in range(20):
        for request in requests:
            cache.ensure_available(request, 0)
        time.sleep(0.001)
    cache.on_finished(requests[1])  # so that a report is due
    assert needed(cache) == []


def test_patches_from_the_server_go_out_once(
    cache: SchedulerCache, handover: PatchHandover
) -> None:
    request = wanting("r", KEY)
    make_missing(cache, request)
    handover.put(KEY, make_patches(7))
    make_available(cache, request)
    assert cache.has_fetched(KEY)
    cache.on_allocated(request, 0)
    loads = cache.take_loads()
    assert loads.embeddings == {}
    assert loads.patches.keys() == {KEY}
    assert isinstance(loads.patches[KEY], Patches)
    assert loads.patches[KEY].grid == GRID
    assert torch.equal(loads.patches[KEY].patches, make_patches(7))
    assert cache.take_loads() == StepLoads()
    assert cache.on_finished(request) == {"sources": ["encoded"]}


def test_patches_of_another_size_are_not_used(
    cache: SchedulerCache, handover: PatchHandover, tmp_path: Path
) -> None:
    request = wanting("r", KEY)
    make_missing(cache, request)
    handover.put(KEY, torch.zeros(8, 768, dtype=torch.uint8))

    def is_read() -> bool:
        assert not cache.ensure_available(request, 0)
        return not (tmp_path / "patches" / KEY).exists()

    until(is_read)
    handover.put(KEY, make_patches())
    make_available(cache, request)
    cache.on_allocated(request, 0)
    assert torch.equal(cache.take_loads().patches[KEY].patches, make_patches())


def test_what_another_process_has_encoded_meanwhile_is_loaded(
    cache: SchedulerCache, tiers: FakeTiers
) -> None:
    request = wanting("r", KEY)
    make_missing(cache, request)
    for _ in range(20):
        assert not cache.ensure_available(request, 0)
        time.sleep(0.001)
    assert tiers.loaded == [KEY]  # nothing is read while there is nothing
    tiers.put(KEY, make_embedding(7))
    make_available(cache, request)
    cache.on_allocated(request, 0)
    loads = cache.take_loads()
    assert loads.patches == {}
    assert torch.equal(loads.embeddings[KEY], make_embedding(7))
    assert cache.on_finished(request) == {"sources": ["host"]}


def test_what_the_server_does_not_bring_in_time_fails(
    cache: SchedulerCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [wanting("one", KEY), wanting("two", KEY)]
    for request in requests:
        make_missing(cache, request)
    make_missing(cache, wanting("other", OTHER_KEY))
    assert cache.take_failed() == set()
    monkeypatch.setattr(vllm_cache_scheduler, "_HANDOVER_TIMEOUT_S", -1.0)

    def has_failed() -> bool:
        assert not cache.ensure_available(requests[0], 0)
        return bool(cache._failed)

    until(has_failed)
    assert cache.take_failed() == {"one", "two"}
    assert cache.take_failed() == set()


# ---- how much requests that wait may hold


def test_a_request_that_waits_begins_no_fetch_when_much_is_held(
    cache: SchedulerCache, tiers: FakeTiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_cache_scheduler, "_MAX_FETCHED_BYTES", 2 * ITEM_BYTES)
    for key in (KEY, OTHER_KEY, THIRD_KEY):
        tiers.put(key, make_embedding())
    first, second = wanting("one", KEY, OTHER_KEY), wanting("two", THIRD_KEY)
    make_available(cache, first)
    assert not cache.ensure_available(second, 0)
    assert THIRD_KEY not in tiers.loaded
    cache.on_allocated(first, 0)
    make_available(cache, second)
    assert cache.has_fetched(THIRD_KEY)


@pytest.mark.parametrize("status", [RequestStatus.WAITING, RequestStatus.PREEMPTED])
def test_all_that_one_request_needs_is_fetched_together(
    cache: SchedulerCache,
    tiers: FakeTiers,
    monkeypatch: pytest.MonkeyPatch,
    status: RequestStatus,
) -> None:
    monkeypatch.setattr(vllm_cache_scheduler, "_MAX_FETCHED_BYTES", 1)
    for key in (KEY, OTHER_KEY, THIRD_KEY):
        tiers.put(key, make_embedding())
    make_available(cache, wanting("r", KEY, OTHER_KEY, THIRD_KEY, status=status))


def test_a_request_that_has_begun_to_fetch_goes_on(
    cache: SchedulerCache, tiers: FakeTiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiers.put(KEY, make_embedding())
    tiers.put(OTHER_KEY, make_embedding())
    request = make_request("r", make_feature(KEY), make_feature(OTHER_KEY, WINDOW))
    make_available(cache, request)
    monkeypatch.setattr(vllm_cache_scheduler, "_MAX_FETCHED_BYTES", 1)
    make_available(cache, request, position=1)
    assert cache.has_fetched(OTHER_KEY)


def test_a_running_request_is_never_held_back(
    cache: SchedulerCache, tiers: FakeTiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_cache_scheduler, "_MAX_FETCHED_BYTES", 0)
    tiers.put(KEY, make_embedding())
    assert not cache.ensure_available(wanting("waiting", KEY), 0)
    assert tiers.loaded == []
    make_available(cache, wanting("running", KEY, status=RequestStatus.RUNNING))


def test_what_is_fetched_already_can_be_waited_for(
    cache: SchedulerCache, tiers: FakeTiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiers.put(KEY, make_embedding())
    make_available(cache, wanting("one", KEY))
    monkeypatch.setattr(vllm_cache_scheduler, "_MAX_FETCHED_BYTES", 0)
    make_available(cache, wanting("two", KEY))


def test_carried_patches_are_not_held_back(
    cache: SchedulerCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_cache_scheduler, "_MAX_FETCHED_BYTES", 0)
    assert cache.ensure_available(carrying("r", KEY), 0)


# ---- the end of a request


def test_a_request_without_items_tells_no_sources(cache: SchedulerCache) -> None:
    assert cache.on_finished(make_request("r")) is None


def test_sources_are_told_in_the_order_of_the_items(
    cache: SchedulerCache, tiers: FakeTiers
) -> None:
    tiers.put(THIRD_KEY, make_embedding(), "disk")
    features = [
        make_feature("0" * 64, 0),
        make_feature(KEY, 10, patches=make_patches()),
        make_feature(OTHER_KEY, 20),
        make_feature(THIRD_KEY, 30),
    ]
    request = make_request("r", *features)
    put_on_device(cache, OTHER_KEY)
    make_available(cache, request, position=10)  # the prefix cache covers the first item
    cache.on_allocated(request, 3)
    cache.on_device_hit(request, 2)
    cache.on_allocated(request, 1)
    assert cache.on_finished(request) == {"sources": ["prefix", "encoded", "device", "disk"]}


def test_a_later_hit_does_not_change_the_source(cache: SchedulerCache) -> None:
    request = carrying("r", KEY)
    cache.ensure_available(request, 0)
    cache.on_allocated(request, 0)
    cache.on_device_hit(request, 0)
    assert cache.on_finished(request) == {"sources": ["encoded"]}


def test_a_request_that_was_never_scheduled_leaves_nothing(cache: SchedulerCache) -> None:
    cache.on_finished(carrying("r", KEY))
    assert held(cache) == {}


def test_a_served_request_leaves_nothing(cache: SchedulerCache, tiers: FakeTiers) -> None:
    tiers.put(KEY, make_embedding())
    request = make_request("r", make_feature(KEY), make_feature(OTHER_KEY, 10))
    put_on_device(cache, OTHER_KEY)
    make_available(cache, request)
    cache.on_allocated(request, 0)
    cache.on_device_hit(request, 1)
    cache.take_loads()
    assert held(cache) != {}
    cache.on_finished(request)
    assert held(cache) == {}


def test_a_request_that_is_aborted_while_it_waits_leaves_nothing(
    cache: SchedulerCache, tiers: FakeTiers
) -> None:
    tiers.hold()
    loading, asking = wanting("one", KEY), wanting("two", OTHER_KEY)
    assert not cache.ensure_available(loading, 0)
    tiers.release()
    make_missing(cache, asking)
    for request in (loading, asking):
        cache.on_finished(request)
    assert held(cache) == {}


def test_a_request_that_failed_leaves_nothing(
    cache: SchedulerCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_cache_scheduler, "_HANDOVER_TIMEOUT_S", -1.0)
    request = wanting("r", KEY)
    until(lambda: cache.ensure_available(request, 0) or bool(cache._failed))
    assert cache.take_failed() == {"r"}
    cache.on_finished(request)
    assert held(cache) == {}
    assert cache.take_failed() == set()


def test_carriers_and_those_they_served_leave_nothing(cache: SchedulerCache) -> None:
    carriers = [carrying(name, KEY, OTHER_KEY) for name in ("one", "two")]
    request = wanting("r", OTHER_KEY, KEY, KEY)
    for each in (*carriers, request):
        make_available(cache, each)
    cache.on_allocated(request, 0)
    for each in (carriers[0], request, carriers[1]):
        cache.on_finished(each)
    assert held(cache) == {}


def test_who_ends_does_not_disturb_who_waits_for_the_same(
    cache: SchedulerCache, tiers: FakeTiers
) -> None:
    tiers.put(KEY, make_embedding())
    tiers.hold()
    ended, waiting = wanting("one", KEY), wanting("two", KEY)
    for request in (ended, waiting):
        assert not cache.ensure_available(request, 0)
    cache.on_finished(ended)
    tiers.release()
    make_available(cache, waiting)
    assert tiers.loaded == [KEY]
    cache.on_finished(waiting)
    assert held(cache) == {}


def test_a_fetch_that_nobody_waits_for_begins_anew(cache: SchedulerCache, tiers: FakeTiers) -> None:
    tiers.hold()
    first = wanting("one", KEY)
    assert not cache.ensure_available(first, 0)
    cache.on_finished(first)
    tiers.put(KEY, make_embedding())
    tiers.release()
    make_available(cache, wanting("two", KEY))
    assert tiers.loaded == [KEY, KEY]


# ---- statistics


def test_statistics_are_for_now_and_then(
    cache: SchedulerCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_cache_scheduler, "_STATS_INTERVAL_S", 1000.0)
    assert cache.take_stats() is not None
    assert cache.take_stats() is None


def test_the_end_of_a_request_is_reported_at_once(
    cache: SchedulerCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_cache_scheduler, "_STATS_INTERVAL_S", 1000.0)
    cache.take_stats()
    cache.on_finished(make_request("r"))
    assert cache.take_stats() is not None


def test_what_is_needed_is_reported_at_once(
    cache: SchedulerCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_cache_scheduler, "_STATS_INTERVAL_S", 1000.0)
    cache.take_stats()
    make_missing(cache, wanting("r", KEY))
    assert needed(cache) == [KEY]
    assert cache.take_stats() is None


def test_encoded_items_are_counted(cache: SchedulerCache, tiers: FakeTiers) -> None:
    tiers.put(THIRD_KEY, make_embedding())
    requests = [carrying("one", KEY), wanting("two", KEY), wanting("three", THIRD_KEY)]
    for request in requests:
        make_available(cache, request)
        cache.on_allocated(request, 0)
    stats = cache.take_stats()
    assert stats is not None
    assert stats["encoded"] == 2


def test_statistics_tell_of_the_tiers_of_all_processes(
    cache: SchedulerCache, tiers: FakeTiers
) -> None:
    tiers.encode_bytes_per_s = 7.0
    cache.on_worker_counts({"host": {"hits": 1, "bytes_written": 90, "num_bytes": 600}}, 2)
    cache.describe_device = lambda: {"hits": 4}
    stats = cache.take_stats()
    assert stats is not None
    host = stats["tiers"]["host"]
    assert (host["hits"], host["misses"], host["bytes_written"]) == (3, 0, 100)
    assert host["num_bytes"] == 600  # of one directory, as the later one has seen it
    assert host["load_bytes_per_s"] is None
    assert stats["device"] == {"hits": 4}
    assert host["max_bytes"] == 1000
    assert (stats["dropped"], stats["bypassed"]) == (5, ["disk"])
    assert stats["encode_bytes_per_s"] == 7.0


def test_the_speed_of_the_encoder_is_told_to_the_tiers(
    cache: SchedulerCache, tiers: FakeTiers
) -> None:
    cache.observe_encoding(100, 0.5)
    assert tiers.observed == [(100, 0.5)]


def test_a_row_has_the_main_embedding_and_the_deepstack_levels(cache: SchedulerCache) -> None:
    assert cache.row_bytes == 8 * 3 * 2


def test_each_engine_has_a_cache_of_its_own(
    cache: SchedulerCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_cache_scheduler, "_caches", {})
    register_cache(make_config("one"), cache)
    assert cache_of(make_config("one")) is cache
    with pytest.raises(KeyError):
        cache_of(make_config("two"))
