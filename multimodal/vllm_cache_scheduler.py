"""The scheduler's side of the vision cache: what of a request's visual items can be had, and how.

An item is on the device, or its request carries its patches, or it has to be fetched: from a tier,
from another request that carries its patches, or, if nobody has them, from the server, which is
asked for them. Whatever is promised to the scheduler is verified and in memory. All state belongs
to the scheduler's thread; files are read by other threads, and no step waits for them.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.distributed.ec_transfer.ec_connector.base import ECConnectorMetadata
from vllm.multimodal.utils import get_mm_features_in_window
from vllm.v1.request import Request, RequestStatus

from multimodal.patch_handover import PatchHandover
from multimodal.vision_tiers import VisionTiers
from multimodal.vllm_input import grid_of, lora_int_id_of, patches_of

logger = logging.getLogger(__name__)

_NUM_THREADS = 4
_LOOK_INTERVAL_S = 0.002  # for patches that the server was asked for
_HANDOVER_TIMEOUT_S = 120.0
_STATS_INTERVAL_S = 0.25
_MAX_FETCHED_BYTES = 1 << 30  # of requests that wait; one request may need more

Grid = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Patches:
    """An item to be encoded: see `VisualItem`. `lora_int_id`: see `engine_input`."""

    patches: torch.Tensor
    grid: Grid
    lora_int_id: int | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What a fetch has brought. `source`: "host", "disk", or "encoded" for patches."""

    content: torch.Tensor | Patches
    source: str


@dataclass
class StepLoads(ECConnectorMetadata):
    """What the workers put into their encoder cache before a step, by key."""

    embeddings: dict[str, torch.Tensor] = field(default_factory=dict)
    patches: dict[str, Patches] = field(default_factory=dict)


@dataclass(slots=True)
class _Fetch:
    """One item on its way into memory."""

    key: str
    num_rows: int
    grid: Grid
    num_bytes: int
    waiters: set[str] = field(default_factory=set)  # ids of requests
    found: Found | None = None
    reading: Future[Found | None] | None = None
    missing_since: float | None = None  # no tier has it
    next_look_at: float = 0.0


class SchedulerCache:
    """Everything that the connector and the encoder cache manager of one engine share."""

    def __init__(self, vllm_config: VllmConfig, tiers: VisionTiers, handover: PatchHandover):
        self._tiers = tiers
        self._handover = handover
        config, scheduler = vllm_config.model_config.hf_config, vllm_config.scheduler_config
        num_levels = len(config.vision_config.deepstack_visual_indexes)
        self._row_shape = (config.text_config.hidden_size * (1 + num_levels),)
        self._dtype = vllm_config.model_config.dtype
        self._window = scheduler.max_num_batched_tokens
        self._threads = ThreadPoolExecutor(_NUM_THREADS, "vision-cache")
        self._fetches: dict[str, _Fetch] = {}
        self._fetched_by: defaultdict[str, set[str]] = defaultdict(set)  # keys by request
        self._carriers: defaultdict[str, dict[str, Patches]] = defaultdict(dict)  # key, request
        self._known_requests: set[str] = set()
        self._sources: defaultdict[str, dict[int, str]] = defaultdict(dict)  # request, item
        self._loads = StepLoads()
        self._failed: set[str] = set()
        self._needed: list[str] = []
        self._num_retries = self._num_encoded = 0
        self._worker_counts: Mapping[str, Mapping[str, int]] = {}
        self._worker_dropped = 0
        self._stats_at = 0.0
        self.is_on_device: Callable[[str], bool] = lambda key: False
        self.describe_device: Callable[[], dict[str, int]] = dict

    @property
    def row_bytes(self) -> int:
        """Of one visual token: the main embedding and the DeepStack levels."""
        return int(self._row_shape[0] * self._dtype.itemsize)

    # ---- asked by the scheduler, in this order

    def ensure_available(self, request: Request, num_computed_tokens: int) -> bool:
        """Whether all items of the request's next tokens can be had now. If not, it waits."""
        self._register(request)
        window = (num_computed_tokens, num_computed_tokens + self._window)
        # no short cut: all that is missing is to be fetched at the same time
        return all([self._is_available(request, feature) for feature in _between(request, window)])

    def can_allocate(self, request: Request, index: int) -> bool:
        """Whether an item that is not on the device can be put there."""
        feature = request.mm_features[index]
        return self.has_fetched(feature.identifier) or _can_encode(request, feature)

    def has_fetched(self, key: str) -> bool:
        fetch = self._fetches.get(key)
        return fetch is not None and fetch.found is not None

    def on_allocated(self, request: Request, index: int) -> None:
        """The item's place on the device is taken: it is loaded, or encoded, in this step."""
        feature = request.mm_features[index]
        key = feature.identifier
        source = "encoded"
        if self.has_fetched(key):
            fetch = self._fetches[key]
            assert fetch.found is not None
            source = fetch.found.source
            if isinstance(fetch.found.content, Patches):
                # of this request: its adapter is active in this step
                lora_int_id = lora_int_id_of(feature.data, feature.modality)
                patches = replace(fetch.found.content, lora_int_id=lora_int_id)
                self._loads.patches[key] = patches
            else:
                self._loads.embeddings[key] = fetch.found.content
            self._drop(fetch)
        self._num_encoded += source == "encoded"
        self._sources[request.request_id][index] = source

    def on_device_hit(self, request: Request, index: int) -> bool:
        """Whether the item is new to the request, which may ask for it at every step."""
        sources = self._sources[request.request_id]
        is_new = index not in sources
        sources.setdefault(index, "device")
        return is_new

    def take_loads(self) -> StepLoads:
        loads, self._loads = self._loads, StepLoads()
        return loads

    def take_failed(self) -> set[str]:
        failed, self._failed = self._failed, set()
        return failed

    def on_finished(self, request: Request) -> dict[str, Any] | None:
        """Forget the request; tells where each of its items came from."""
        request_id = request.request_id
        for key in self._fetched_by.pop(request_id, ()):
            fetch = self._fetches.get(key)
            if fetch is not None:
                self._leave(fetch, request_id)
        for feature in request.mm_features:
            carriers = self._carriers.get(feature.identifier)
            if carriers is not None:
                carriers.pop(request_id, None)
                if not carriers:
                    del self._carriers[feature.identifier]
        self._known_requests.discard(request_id)
        self._stats_at = 0.0  # the step that ends a request reports
        sources = self._sources.pop(request_id, {})
        if not request.mm_features:
            return None
        return {"sources": [sources.get(i, "prefix") for i in range(len(request.mm_features))]}

    def on_worker_counts(self, counts: Mapping[str, Mapping[str, int]], num_dropped: int) -> None:
        """What the tiers of a worker in another process have counted."""
        self._worker_counts, self._worker_dropped = counts, num_dropped

    def observe_encoding(self, num_bytes: int, seconds: float) -> None:
        self._tiers.observe_encoding(num_bytes, seconds)

    def take_stats(self) -> dict[str, Any] | None:
        """For the server's process; all counts are since the start. None if it is too early."""
        now = time.monotonic()
        if not self._needed and now < self._stats_at:
            return None
        self._stats_at = now + _STATS_INTERVAL_S
        needed, self._needed = self._needed, []
        return {
            "needed": needed,
            "retries": self._num_retries,
            "encoded": self._num_encoded,
            "device": self.describe_device(),
            "tiers": self._describe_tiers(),
            "dropped": self._tiers.num_dropped + self._worker_dropped,
            "bypassed": sorted(self._tiers.bypassed),
            "encode_bytes_per_s": self._tiers.encode_bytes_per_s,
        }

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)

    # ---- one item

    def _register(self, request: Request) -> None:
        if request.request_id in self._known_requests:
            return
        self._known_requests.add(request.request_id)
        for feature in request.mm_features:
            patches = _carried(feature)
            if patches is not None:
                self._carriers[feature.identifier][request.request_id] = patches

    def _is_available(self, request: Request, feature: Any) -> bool:
        key, request_id = feature.identifier, request.request_id
        fetch = self._fetches.get(key)
        if self.is_on_device(key):
            if fetch is not None:
                self._leave(fetch, request_id)
            return True
        if fetch is None:
            if _can_encode(request, feature):
                return True
            if not self._may_fetch(request):
                return False
            fetch = self._begin(feature)
        fetch.waiters.add(request_id)
        self._fetched_by[request_id].add(key)
        self._advance(fetch)
        return fetch.found is not None

    def _may_fetch(self, request: Request) -> bool:
        """Bounds what waiting requests hold. All that one request needs is fetched together."""
        if request.status == RequestStatus.RUNNING or request.request_id in self._fetched_by:
            return True
        return sum(fetch.num_bytes for fetch in self._fetches.values()) < _MAX_FETCHED_BYTES

    def _begin(self, feature: Any) -> _Fetch:
        key, num_rows = feature.identifier, feature.mm_position.get_num_embeds()
        grid = grid_of(feature.data, feature.modality)
        fetch = _Fetch(key, num_rows, grid, num_rows * self.row_bytes)
        self._fetches[key] = fetch
        fetch.reading = self._threads.submit(self._load, key, num_rows)
        return fetch

    def _advance(self, fetch: _Fetch) -> None:
        """Take what has been read, or look elsewhere: tiers, other requests, the server."""
        if fetch.found is not None:
            return
        if fetch.reading is not None:
            if not fetch.reading.done():
                return
            fetch.found, fetch.reading = fetch.reading.result(), None
        if fetch.found is None and fetch.key in self._carriers:
            patches = next(iter(self._carriers[fetch.key].values()))
            fetch.found = Found(patches, "encoded")
        if fetch.found is None:
            self._ask_server(fetch)

    def _ask_server(self, fetch: _Fetch) -> None:
        now = time.monotonic()
        if fetch.missing_since is None:
            fetch.missing_since = now
            self._needed.append(fetch.key)
            self._num_retries += 1
        elif now > fetch.missing_since + _HANDOVER_TIMEOUT_S:
            self._failed |= fetch.waiters
        if now >= fetch.next_look_at:
            fetch.next_look_at = now + _LOOK_INTERVAL_S
            fetch.reading = self._threads.submit(
                self._look_again, fetch.key, fetch.num_rows, fetch.grid
            )

    def _leave(self, fetch: _Fetch, request_id: str) -> None:
        fetch.waiters.discard(request_id)
        if request_id in self._fetched_by:
            self._fetched_by[request_id].discard(fetch.key)
        if not fetch.waiters:
            self._drop(fetch)

    def _drop(self, fetch: _Fetch) -> None:
        self._fetches.pop(fetch.key, None)
        for request_id in fetch.waiters:
            if request_id in self._fetched_by:
                self._fetched_by[request_id].discard(fetch.key)

    # ---- in other threads

    def _load(self, key: str, num_rows: int) -> Found | None:
        try:
            entry = self._tiers.load(key)
        except Exception:  # the engine must not die of it
            logger.exception("the vision cache cannot be read")
            return None
        if entry is None:
            return None
        embedding = entry.embedding
        if embedding.shape != (num_rows, *self._row_shape) or embedding.dtype != self._dtype:
            return None
        return Found(embedding, entry.tier)

    def _look_again(self, key: str, num_rows: int, grid: Grid) -> Found | None:
        """Where the server's answer comes: patches, or what another process has made of them."""
        patches = self._handover.take(key)
        if patches is not None and patches.shape[0] == grid[0] * grid[1]:
            return Found(Patches(patches, grid), "encoded")
        return self._load(key, num_rows) if self._tiers.contains(key) else None

    # ---- statistics

    def _describe_tiers(self) -> dict[str, dict[str, float | None]]:
        described: dict[str, dict[str, float | None]] = {}
        rates, num_bytes = self._tiers.load_bytes_per_s(), self._tiers.num_bytes()
        max_bytes = self._tiers.max_bytes()
        for name, counts in self._tiers.counts().items():
            elsewhere = self._worker_counts.get(name, {})
            total = {key: value + elsewhere.get(key, 0) for key, value in asdict(counts).items()}
            bytes_here = max(num_bytes[name], elsewhere.get("num_bytes", 0))
            described[name] = {
                **total,
                "num_bytes": bytes_here,
                "max_bytes": max_bytes[name],
                "load_bytes_per_s": rates[name],
            }
        return described


_caches: dict[str, SchedulerCache] = {}  # by engine id: vLLM makes connector and manager apart


def register_cache(vllm_config: VllmConfig, cache: SchedulerCache) -> None:
    _caches[_engine_id(vllm_config)] = cache


def cache_of(vllm_config: VllmConfig) -> SchedulerCache:
    return _caches[_engine_id(vllm_config)]


def _engine_id(vllm_config: VllmConfig) -> str:
    assert vllm_config.ec_transfer_config is not None
    return str(vllm_config.ec_transfer_config.engine_id)


def _between(request: Request, window: tuple[int, int]) -> Iterator[Any]:
    """The items that stand, in part, between two positions of the prompt."""
    low, high = get_mm_features_in_window(request.mm_features, start=window[0], end=window[1])
    return (request.mm_features[index] for index in range(low, high))


def _carried(feature: Any) -> Patches | None:
    patches = patches_of(feature.data)
    return None if patches is None else Patches(patches, grid_of(feature.data, feature.modality))


def _can_encode(request: Request, feature: Any) -> bool:
    """vLLM's encoder takes the patches from the worker's copy of the request.

    That copy has lost them if the prefix cache covered the item when the request was first
    scheduled, which a preempted request may need again.
    """
    return request.num_preemptions == 0 and patches_of(feature.data) is not None
