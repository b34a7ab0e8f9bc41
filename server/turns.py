"""Clients take turns at what only so many may do at once."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """A semaphore at which one client's queue does not stand in another's way.

    Who waits is served client by client, the requests of each in the order of their arrival.
    To be used from one event loop.
    """

    def __init__(self, num_at_once: int) -> None:
        self._num_free = num_at_once
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, client_id: str) -> AsyncIterator[None]:
        await self._acquire(client_id)
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, client_id: str) -> None:
        if self._num_free > 0:
            self._num_free -= 1
            return
        called = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client_id, deque()).append(called)
        try:
            await called
        except asyncio.CancelledError:
            if called.done() and not called.cancelled():
                self._release()  # it was given the turn at the same moment
            raise

    def _release(self) -> None:
        """Hand the turn to whoever is next; those that were cancelled are passed over."""
        while self._waiting:
            client_id, queue = self._waiting.popitem(last=False)
            called = queue.popleft()
            if queue:
                self._waiting[client_id] = queue  # behind the other clients
            if not called.done():
                called.set_result(None)
                return
        self._num_free += 1
