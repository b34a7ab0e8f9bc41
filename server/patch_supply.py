"""Patches for an engine that asks for them after all: of the request that waits, while it waits."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

import torch

from multimodal.errors import MediaOverload
from multimodal.patch_handover import PatchHandover
from server.engine import EngineRequest

_MAX_WAIT_S = 100.0
_RETRY_INTERVAL_S = 0.1

logger = logging.getLogger(__name__)

Abort = Callable[[str], Awaitable[None]]


class Supplied:
    """One request that the engine is working on. `failure` says why its patches cannot be had."""

    def __init__(self, request: EngineRequest) -> None:
        self.request = request
        self.failure: Exception | None = None


class PatchSupply:
    """Answers the engine's questions. To be used from one event loop.

    Args:
        abort: ends a request in the engine; called if its patches cannot be had.
    """

    def __init__(self, handover: PatchHandover, abort: Abort) -> None:
        self._handover = handover
        self._abort = abort
        self._by_key: defaultdict[str, list[Supplied]] = defaultdict(list)
        self._tasks: set[asyncio.Task[None]] = set()

    @contextmanager
    def serving(self, request: EngineRequest) -> Iterator[Supplied]:
        """While the engine works on a request, its items' patches can be asked for."""
        supplied = Supplied(request)
        keys = {placed.item.key for placed in request.items}
        for key in keys:
            self._by_key[key].append(supplied)
        try:
            yield supplied
        finally:
            for key in keys:
                self._by_key[key].remove(supplied)
                if not self._by_key[key]:
                    del self._by_key[key]

    def ask(self, keys: Collection[str]) -> None:
        """The engine needs the patches of these items. Returns at once."""
        wanted: defaultdict[Supplied, list[str]] = defaultdict(list)
        for key in keys:
            if key in self._by_key:  # else the request has ended meanwhile
                wanted[self._by_key[key][0]].append(key)
        for supplied, its_keys in wanted.items():
            task = asyncio.create_task(self._supply(supplied, its_keys))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _supply(self, supplied: Supplied, keys: Collection[str]) -> None:
        request = supplied.request
        try:
            patches = await _load(request, keys)
            for key in keys:
                await asyncio.to_thread(self._handover.put, key, patches[key])
        except Exception as error:
            logger.warning("request %s: patches cannot be had: %r", request.request_id, error)
            supplied.failure = error
            await self._abort(request.request_id)


async def _load(request: EngineRequest, keys: Collection[str]) -> Mapping[str, torch.Tensor]:
    """The request was accepted before: when there is no room for its media, it waits for some."""
    async with asyncio.timeout(_MAX_WAIT_S):
        while True:
            try:
                return await request.load_patches(keys)
            except MediaOverload:
                await asyncio.sleep(_RETRY_INTERVAL_S)
