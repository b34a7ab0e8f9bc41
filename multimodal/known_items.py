"""Which visual items the engine can do without the pixels of, as far as this process can tell.

A guess, never a promise: an item may be evicted a moment later. The engine then asks for its
patches.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace

from multimodal.items import PlacedItem
from multimodal.vision_tiers import VisionTiers

_MAX_SUBMITTED = 100_000  # keys, some 15 MB


class KnownItems:
    """Items that were sent to the engine with their patches, and items in a tier. Thread-safe.

    Args:
        tiers: those of the engine, as this process sees them; None if there are none.
    """

    def __init__(self, tiers: VisionTiers | None = None) -> None:
        self._tiers = tiers
        self._submitted: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def has_tiers(self) -> bool:
        return self._tiers is not None

    def was_submitted(self, key: str) -> bool:
        with self._lock:
            if key not in self._submitted:
                return False
            self._submitted.move_to_end(key)
            return True

    def find_in_tiers(self, keys: Iterable[str]) -> set[str]:
        """Those of the keys for which there is an entry. Looks into directories."""
        assert self._tiers is not None
        return {key for key in keys if self._tiers.contains(key)}

    def submit(self, items: Iterable[PlacedItem]) -> tuple[PlacedItem, ...]:
        """What is to be sent to the engine now: no item's patches a second time."""
        return tuple(map(self._submit_one, items))

    def forget(self, key: str) -> None:
        """The engine has asked for the patches of an item that it was thought to know."""
        with self._lock:
            self._submitted.pop(key, None)

    def forget_all(self) -> None:
        """The engine has been started again, or its cache emptied."""
        with self._lock:
            self._submitted.clear()

    def _submit_one(self, placed: PlacedItem) -> PlacedItem:
        if placed.item.patches is None:
            return placed
        with self._lock:
            if placed.item.key in self._submitted:
                return replace(placed, item=replace(placed.item, patches=None))
            self._submitted[placed.item.key] = None
            if len(self._submitted) > _MAX_SUBMITTED:
                self._submitted.popitem(last=False)
        return placed


class AllKnown(KnownItems):
    """For an engine without a vision tower, which never takes patches: it only asks for them."""

    def was_submitted(self, key: str) -> bool:
        return True

    def _submit_one(self, placed: PlacedItem) -> PlacedItem:
        return replace(placed, item=replace(placed.item, patches=None))
