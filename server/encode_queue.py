"""Visual items that wait for the vision tower of this process, in batches."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

from server.encode_request import EncodeRequest
from server.errors import NotStored, Overloaded

_STORE_TIMEOUT_S = 30.0
_LOOK_INTERVAL_S = 0.002
_MAX_BATCHES = 2  # one is encoded while the one before it is being written

logger = logging.getLogger(__name__)

Call = tuple[str, int, int, bytes]  # key, grid (h, w), patches
Encode = Callable[[Sequence[Call]], Awaitable[Collection[str]]]


class _Job:
    """One item, for all who want it at the same time."""

    def __init__(self, request: EncodeRequest, patches: bytes) -> None:
        self.request = request
        self.call: Call = (request.key, request.grid_h, request.grid_w, patches)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.num_waiting = 0


class EncodeQueue:
    """To be used from one event loop. What waits is bounded by whoever puts it here.

    Args:
        encode: encodes items of one modality at once and puts their embeddings into the tiers, in
            the background; returns the keys of those that will not be put there.
        is_stored: whether a tier has the embedding of a key.
        max_batch_tokens: visual tokens of one batch; an item with more is a batch of its own.
        observe: told the modality and the number of items of each batch that was encoded.
    """

    def __init__(
        self,
        encode: Encode,
        is_stored: Callable[[str], bool],
        max_batch_tokens: int,
        observe: Callable[[str, int], None] = lambda modality, num_items: None,
    ) -> None:
        self._observe = observe
        self._encode = encode
        self._is_stored = is_stored
        self._max_batch_tokens = max_batch_tokens
        self._waiting: dict[str, _Job] = {}
        self._running: dict[str, _Job] = {}
        self._wake = asyncio.Event()
        self._places = asyncio.Semaphore(_MAX_BATCHES)
        self._tasks = {asyncio.create_task(self._run())}

    async def encode(self, request: EncodeRequest, patches: bytes) -> None:
        """Return when the item's embedding is stored.

        Raises: Overloaded, NotStored; whatever `encode` raises.
        """
        is_new = self._find(request.key) is None
        if is_new and await asyncio.to_thread(self._is_stored, request.key):
            return
        job = self._find(request.key)
        if job is None:
            job = self._waiting[request.key] = _Job(request, patches)
            self._wake.set()
        job.num_waiting += 1
        try:
            await asyncio.shield(job.done)
        finally:
            job.num_waiting -= 1
            if not job.num_waiting and self._waiting.get(request.key) is job:
                del self._waiting[request.key]

    async def close(self) -> None:
        """What waits is given up."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for job in (*self._waiting.values(), *self._running.values()):
            job.done.cancel()

    def _find(self, key: str) -> _Job | None:
        return self._running.get(key) or self._waiting.get(key)

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            await self._places.acquire()
            batch = self._take_batch()
            if not batch:
                self._wake.clear()
                self._places.release()
                continue
            rejected = await self._encode_batch(batch)
            task = asyncio.create_task(self._finish(batch, rejected))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _take_batch(self) -> list[_Job]:
        """The oldest item, and those of its modality that fit beside it."""
        batch: list[_Job] = []
        num_tokens = 0
        for job in list(self._waiting.values()):
            if batch and job.request.modality != batch[0].request.modality:
                continue
            num_tokens += job.request.num_tokens
            if batch and num_tokens > self._max_batch_tokens:
                break
            batch.append(job)
            self._running[job.request.key] = self._waiting.pop(job.request.key)
        return batch

    async def _encode_batch(self, batch: Sequence[_Job]) -> Collection[str] | Exception:
        """The keys of what will not be stored, or why nothing was encoded."""
        try:
            rejected = await self._encode([job.call for job in batch])
            self._observe(batch[0].request.modality, len(batch))
            return rejected
        except Exception as error:
            logger.exception("a batch of %d items cannot be encoded", len(batch))
            return error

    async def _finish(self, batch: Sequence[_Job], rejected: Collection[str] | Exception) -> None:
        """Tell those who wait for the batch how it went."""
        missing: Collection[str] = ()
        if not isinstance(rejected, Exception):
            keys = {job.request.key for job in batch} - set(rejected)
            missing = await asyncio.to_thread(self._wait_until_stored, keys)
        for job in batch:
            del self._running[job.request.key]
            failure = _failure_of(job.request.key, rejected, missing)
            if job.done.done():
                continue
            if failure is None:
                job.done.set_result(None)
            elif job.num_waiting:
                job.done.set_exception(failure)
            else:
                job.done.cancel()
        self._places.release()

    def _wait_until_stored(self, keys: Iterable[str]) -> Collection[str]:
        """Keys that have not been stored in time."""
        deadline, missing = time.monotonic() + _STORE_TIMEOUT_S, set(keys)
        while missing and time.monotonic() < deadline:
            missing = {key for key in missing if not self._is_stored(key)}
            if missing:
                time.sleep(_LOOK_INTERVAL_S)
        return missing


def _failure_of(
    key: str, rejected: Collection[str] | Exception, missing: Collection[str]
) -> Exception | None:
    if isinstance(rejected, Exception):
        return rejected
    if key in rejected:
        return Overloaded("too many embeddings are being written", "overloaded")
    if key in missing:
        return NotStored("the embedding is not in the vision cache", "not_stored")
    return None
