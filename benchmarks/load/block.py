"""A block of a run: conversations with one server under one load."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.load.arrivals import ClosedLoop, Load, OpenLoop, arrival_times
from benchmarks.load.client import LoadClient, Place
from benchmarks.load.client_load import metered
from benchmarks.load.monitor import Monitor
from benchmarks.load.record import RequestRecord
from benchmarks.load.scrape import cache_counts
from benchmarks.load.source import Numbered
from benchmarks.load.summary import Block

_LEAD_S = 0.05  # for the first request's body


@dataclass(frozen=True, slots=True)
class BlockPlace:
    """See `RequestRecord`."""

    target: int
    step: int
    block: int


class BlockRunner:
    """Sends the requests of one block.

    Args:
        seed: of the arrival times.
        monitor: is told of each request when it is sent and when it is done.
    """

    def __init__(
        self, client: LoadClient, place: BlockPlace, seed: Sequence[int], monitor: Monitor
    ) -> None:
        self._client = client
        self._place = place
        self._seed = seed
        self._monitor = monitor
        self._records: list[RequestRecord] = []

    async def run(self, load: Load, conversations: Sequence[Numbered]) -> Block:
        """Returns when the last request is done."""
        before = await self._client.scrape()
        async with metered() as meter:
            if isinstance(load, ClosedLoop):
                await self._run_closed(load, conversations)
            else:
                await self._run_open(load, conversations)
        start_s = min(record.scheduled_s for record in self._records)
        duration_s = max(record.end_s for record in self._records) - start_s
        delays_s = [record.sent_s - record.scheduled_s for record in self._records]
        caches = cache_counts(before, await self._client.scrape())
        return Block(self._records, duration_s, meter.read(delays_s), caches)

    async def _run_closed(self, load: ClosedLoop, conversations: Sequence[Numbered]) -> None:
        waiting = iter(conversations)
        async with asyncio.TaskGroup() as users:
            for _ in range(load.concurrency):
                users.create_task(self._be_user(waiting))

    async def _be_user(self, waiting: Iterator[Numbered]) -> None:
        for numbered in waiting:
            await self._converse(numbered)

    async def _run_open(self, load: OpenLoop, conversations: Sequence[Numbered]) -> None:
        num_requests = sum(len(conversation) for _, conversation in conversations)
        share = len(conversations) / num_requests
        arrivals = arrival_times(load, share, len(conversations), self._seed)
        start_s = self._client.now_s() + _LEAD_S
        dues_s = [start_s + arrival_s for arrival_s in arrivals]
        loop, is_over = asyncio.get_running_loop(), threading.Event()
        async with asyncio.TaskGroup() as users:

            def begin(numbered: Numbered, body: bytes, due_s: float) -> None:
                users.create_task(self._converse(numbered, body, due_s))

            def begin_soon(numbered: Numbered, body: bytes, due_s: float) -> None:
                loop.call_soon_threadsafe(begin, numbered, body, due_s)

            try:
                await asyncio.to_thread(self._pace, conversations, dues_s, begin_soon, is_over)
            finally:
                is_over.set()

    def _pace(
        self,
        conversations: Sequence[Numbered],
        dues_s: Sequence[float],
        begin_soon: Callable[[Numbered, bytes, float], None],
        is_over: threading.Event,
    ) -> None:
        """Begin every conversation when it is due.

        In a thread of its own, since timers of event loops are a millisecond coarse.
        """
        for numbered, due_s in zip(conversations, dues_s, strict=True):
            body = self._client.encode(numbered[1][0])
            if is_over.wait(max(0.0, due_s - self._client.now_s())):
                return
            begin_soon(numbered, body, due_s)

    async def _converse(
        self, numbered: Numbered, body: bytes | None = None, due_s: float | None = None
    ) -> None:
        """One turn after the other; `body` and `due_s` are of the first one."""
        number, conversation = numbered
        for index, turn in enumerate(conversation):
            place = Place(self._place.target, self._place.step, self._place.block, number, index)
            body = body or self._client.encode(turn)
            scheduled_s = self._client.now_s() if due_s is None else due_s
            self._monitor.sent()
            record = await self._client.send(turn, body, place, scheduled_s)
            self._records.append(record)
            self._monitor.done(record)
            body, due_s = None, None
