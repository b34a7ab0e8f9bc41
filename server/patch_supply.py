"""Patches for an engine that asks for them after all: of the request that waits, while it waits.

They go to the engine itself, or, if it has no vision tower, to the encoder process.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch

from multimodal.errors import MediaOverload
from multimodal.patch_handover import PatchHandover
from server.encoder_client import EncoderClient
from server.engine import EngineRequest
from server.errors import EncoderUnavailable

_MAX_WAIT_S = 100.0
_RETRY_INTERVAL_S = 0.1
_MAX_ENCODING = 8  # requests whose patches are held here while the encoder process is at work

logger = logging.getLogger(__name__)

Abort = Callable[[str], Awaitable[None]]


class Supplied:
    """One request that the engine is working on. `failure` says why its patches cannot be had."""

    def __init__(self, request: EngineRequest) -> None:
        self.request = request
        self.failure: Exception | None = None
        self.has_ended = False


class PatchSupply:
    """Answers the engines' questions. To be used from one event loop.

    Args:
        handover: that of an engine, by its index.
        abort: ends a request in its engine; called if its patches cannot be had.
        encoder: encodes for the engines, which find the embeddings in the vision cache; None if
            they have a vision tower themselves.
    """

    def __init__(
        self,
        handover: Callable[[int], PatchHandover],
        abort: Abort,
        encoder: EncoderClient | None = None,
    ) -> None:
        self._handover = handover
        self._abort = abort
        self._encoder = encoder
        self._encoding = asyncio.Semaphore(_MAX_ENCODING)
        self._by_key: defaultdict[str, list[Supplied]] = defaultdict(list)
        self._tasks: set[asyncio.Task[None]] = set()
        # engines in whose folder patches may still lie, by key
        self._put: defaultdict[str, set[int]] = defaultdict(set)

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
            supplied.has_ended = True
            for key in keys:
                self._by_key[key].remove(supplied)
                if not self._by_key[key]:
                    del self._by_key[key]
                    self._discard(key)

    def ask(self, keys: Collection[str], engine_index: int) -> None:
        """An engine needs the patches of these items. Returns at once."""
        wanted: defaultdict[Supplied, list[str]] = defaultdict(list)
        for key in keys:
            waiting = (supplied for supplied in self._by_key.get(key, ()) if not supplied.failure)
            supplied = next(waiting, None)
            if supplied is not None:  # else the request has ended meanwhile
                wanted[supplied].append(key)
        for supplied, its_keys in wanted.items():
            task = asyncio.create_task(self._supply(supplied, its_keys, engine_index))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _supply(self, supplied: Supplied, keys: Collection[str], engine_index: int) -> None:
        request, handover = supplied.request, self._handover(engine_index)
        try:
            if self._encoder is not None:
                async with self._encoding:
                    await _encode(self._encoder, request, await _load(supplied, keys))
                return
            patches = await _load(supplied, keys)
            for key in keys:
                await asyncio.to_thread(handover.put, key, patches[key])
                self._put[key].add(engine_index)
                if key not in self._by_key:
                    self._discard(key)
        except Exception as error:
            kind = type(error).__name__  # its message may quote a file
            logger.warning("request %s: patches cannot be had: %s", request.request_id, kind)
            failed = [supplied]
            if isinstance(error, EncoderUnavailable):  # it would be so for the others as well
                failed += [other for key in keys for other in self._by_key.get(key, ())]
            await self._fail(failed, error)
            self.ask(keys, engine_index)  # of another request that waits for the same

    async def _fail(self, waiting: Iterable[Supplied], error: Exception) -> None:
        for supplied in waiting:
            if supplied.failure is None:
                supplied.failure = error
                await self._abort(supplied.request.request_id)

    def _discard(self, key: str) -> None:
        """Nobody waits for these patches any more."""
        for engine_index in self._put.pop(key, ()):
            self._handover(engine_index).discard(key)


async def _encode(
    encoder: EncoderClient, request: EngineRequest, patches: Mapping[str, torch.Tensor]
) -> None:
    """Raises: EncoderUnavailable."""
    items = {placed.item.key: placed.item for placed in request.items}
    try:
        async with asyncio.TaskGroup() as encoding:
            for key, its_patches in patches.items():
                encoding.create_task(encoder.encode(replace(items[key], patches=its_patches)))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def _load(supplied: Supplied, keys: Collection[str]) -> Mapping[str, torch.Tensor]:
    """The request was accepted before: when there is no room for its media, it waits for some."""
    give_up_at = asyncio.get_running_loop().time() + _MAX_WAIT_S
    while True:
        try:
            return await supplied.request.load_patches(keys)
        except MediaOverload:
            if supplied.has_ended or asyncio.get_running_loop().time() > give_up_at:
                raise
            await asyncio.sleep(_RETRY_INTERVAL_S)
