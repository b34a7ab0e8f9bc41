"""The host and disk tiers of the vision cache, as one process uses them.

Reads go to the fastest tier that has an entry; what a slower one has is written to the faster ones
as well. Writes are queued and done by one thread. A tier that yields embeddings more slowly than
the vision tower makes them is bypassed: it is written but not read, except once in a while to see
whether it has become faster.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from multimodal.decayed_rate import DecayedRate
from multimodal.vision_tier import Tier, TierCounts

_MEASURE_INTERVAL_S = 30

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedEntry:
    """An embedding, (tokens, width) on the CPU and not to be changed, and where it came from."""

    embedding: torch.Tensor
    tier: str


@dataclass(frozen=True, slots=True)
class _Write:
    key: str
    embedding: torch.Tensor | Callable[[], torch.Tensor]
    num_bytes: int
    tiers: Sequence[Tier]


class VisionTiers:
    """The tiers of one process, for one namespace. Thread-safe.

    May be made before a fork and started after it, if no thread uses it in between.

    Args:
        tiers: the fastest first; their names differ.
        max_pending_bytes: of embeddings that wait to be written; what comes on top is dropped.
        clock: seconds, for the interval between measurements of a bypassed tier.
    """

    def __init__(
        self,
        tiers: Sequence[Tier],
        *,
        max_pending_bytes: int = 512 << 20,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tiers = tuple(tiers)
        self._max_pending_bytes = max_pending_bytes
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._writes: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._is_hurried = False
        self._lock = threading.Lock()  # of what follows; never held over I/O
        self._is_accepting = False
        self._pending_keys: set[str] = set()
        self._pending_bytes = 0
        self._num_dropped = 0
        self._encode_rate = DecayedRate()
        self._slow_since: dict[str, float] = {}  # or since the last measurement
        self._told_bypassed: frozenset[str] | None = None

    def start(self) -> None:
        """Start the thread that scans the directories and then writes what is stored.

        Not while the thread of an earlier call is alive.
        """
        assert self._thread is None or not self._thread.is_alive()
        self._writes = queue.SimpleQueue()
        self._is_hurried = False
        with self._lock:
            self._pending_keys.clear()
            self._pending_bytes = 0
            self._is_accepting = True
        self._thread = threading.Thread(target=self._run, name="vision-tiers", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Write what is pending, for `timeout_s` at most, and stop the thread; the rest is lost."""
        if self._thread is None:
            return
        with self._lock:
            self._is_accepting = False
        self._writes.put(None)
        self._thread.join(timeout_s)
        self._is_hurried = True

    @property
    def encode_bytes_per_s(self) -> float | None:
        """How fast the vision tower makes embeddings; None before the eighth observation."""
        with self._lock:
            return self._encode_rate.bytes_per_s

    @property
    def bypassed(self) -> frozenset[str]:
        """Names of the tiers that are not read now."""
        with self._lock:
            if self._told_bypassed is not None:
                return self._told_bypassed
            return frozenset(name for name in self._slow_since if not self._is_due(name))

    @property
    def num_dropped(self) -> int:
        """Embeddings that were not written: too much was pending, or they could not be had."""
        with self._lock:
            return self._num_dropped

    def counts(self) -> Mapping[str, TierCounts]:
        return {tier.name: tier.counts for tier in self._tiers}

    def num_bytes(self) -> Mapping[str, int]:
        return {tier.name: tier.num_bytes for tier in self._tiers}

    def max_bytes(self) -> Mapping[str, int]:
        return {tier.name: tier.max_bytes for tier in self._tiers}

    def load_bytes_per_s(self) -> Mapping[str, float | None]:
        return {tier.name: tier.load_bytes_per_s for tier in self._tiers}

    def contains(self, key: str) -> bool:
        """Whether a tier that is read has a file for the key; `load` may still return None."""
        bypassed = self.bypassed
        return any(tier.name not in bypassed and tier.contains(key) for tier in self._tiers)

    def load(self, key: str) -> LoadedEntry | None:
        """The embedding from the fastest tier that has it. Blocks."""
        for position, tier in enumerate(self._tiers):
            if not self._may_read(tier, key):
                continue
            embedding = tier.load(key)
            if embedding is not None:
                self._judge_tiers()
                faster = self._tiers[:position]
                if faster:
                    self._enqueue(_Write(key, embedding, embedding.nbytes, faster))
                return LoadedEntry(embedding, tier.name)
        return None

    def store(
        self,
        key: str,
        embedding: torch.Tensor | Callable[[], torch.Tensor],
        num_bytes: int | None = None,
    ) -> bool:
        """Queue an embedding for every tier. Returns at once; dropped before `start`.

        However large one embedding is, it is queued if nothing else is pending.

        Args:
            embedding: as `write_entry` takes it, and never changed again; or what returns it, to be
                called in the writing thread, once or not at all.
            num_bytes: of the embedding; needed with a callable.
        Returns: whether it is queued, now or by an earlier call.
        """
        if isinstance(embedding, torch.Tensor):
            num_bytes = embedding.nbytes
        if num_bytes is None:
            raise ValueError("num_bytes is needed for an embedding that is still to be made")
        return self._enqueue(_Write(key, embedding, num_bytes, self._tiers))

    def clear(self, names: Collection[str]) -> None:
        """Empty the tiers of these names, for all processes. Blocks.

        What another process is about to write is written nevertheless.
        """
        for tier in self._tiers:
            if tier.name in names:
                tier.clear()

    def observe_encoding(self, num_bytes: int, seconds: float) -> None:
        """Take note of how long the vision tower took for embeddings of `num_bytes`."""
        with self._lock:
            self._encode_rate.observe(num_bytes, seconds)
        self._judge_tiers()

    def set_bypassed(self, names: Iterable[str]) -> None:
        """Bypass these tiers, whatever is measured here: for a process that is told by another."""
        with self._lock:
            self._told_bypassed = frozenset(names)
            self._slow_since.clear()

    def _is_due(self, name: str) -> bool:
        """Whether a slow tier is to be measured again. The lock is held."""
        return self._clock() - self._slow_since[name] >= _MEASURE_INTERVAL_S

    def _may_read(self, tier: Tier, key: str) -> bool:
        """Not from a bypassed tier, except for the one load that measures it again."""
        if tier.name in self.bypassed:
            return False
        if tier.name not in self._slow_since:
            return True
        return tier.contains(key) and self._take_measurement(tier.name)

    def _take_measurement(self, name: str) -> bool:
        """Whether it is this thread that measures a slow tier again."""
        with self._lock:
            if name not in self._slow_since:
                return True
            if not self._is_due(name):
                return False
            self._slow_since[name] = self._clock()
            return True

    def _judge_tiers(self) -> None:
        """Compare the rates of the tiers with that of the vision tower; log what changes."""
        load_rates = {tier.name: tier.load_bytes_per_s for tier in self._tiers}
        with self._lock:
            encode_rate = self._encode_rate.bytes_per_s
            if encode_rate is None or self._told_bypassed is not None:
                return
            changes = [
                (name, load_rate, load_rate < encode_rate)
                for name, load_rate in load_rates.items()
                if load_rate is not None and (load_rate < encode_rate) != (name in self._slow_since)
            ]
            for name, _, is_slow in changes:
                if is_slow:
                    self._slow_since[name] = self._clock()
                else:
                    del self._slow_since[name]
        for name, load_rate, is_slow in changes:
            logger.info(
                "the %s vision cache is %s: it loads %.0f MB/s, the vision tower makes %.0f MB/s",
                name,
                "bypassed" if is_slow else "used again",
                load_rate / 1e6,
                encode_rate / 1e6,
            )

    def _enqueue(self, write: _Write) -> bool:
        """Whether it is queued."""
        with self._lock:
            if write.key in self._pending_keys:
                return True
            pending_bytes = self._pending_bytes + write.num_bytes
            is_full = self._pending_bytes > 0 and pending_bytes > self._max_pending_bytes
            if not self._is_accepting or is_full:
                self._num_dropped += 1
                return False
            self._pending_bytes = pending_bytes
            self._pending_keys.add(write.key)
            self._writes.put(write)
            return True

    def _run(self) -> None:
        for tier in self._tiers:
            tier.scan()
        while self._write_next():
            pass

    def _write_next(self) -> bool:
        """Wait for an embedding and write it; False at the end. Holds none while it waits."""
        write = self._writes.get()
        if write is None:
            return False
        is_done = not self._is_hurried and self._write(write)
        with self._lock:
            self._pending_keys.discard(write.key)
            self._pending_bytes -= write.num_bytes
            self._num_dropped += not is_done
        return True

    def _write(self, write: _Write) -> bool:
        """Whether the embedding was to be had; whether it was stored is the tiers' to count."""
        if all(tier.contains(write.key) for tier in write.tiers):
            return True
        try:
            embedding = (
                write.embedding if isinstance(write.embedding, torch.Tensor) else write.embedding()
            )
            for tier in write.tiers:
                tier.store(write.key, embedding)
        except Exception:
            logger.exception("an embedding cannot be written to the vision cache")
            return False
        return True
