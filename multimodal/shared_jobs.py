"""Work in threads that several requests may wait for: done once for all who ask at the same time.

To be used from one event loop.
"""

import asyncio
import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Executor
from typing import Any

CheckCancelled = Callable[[], None]


class JobCancelled(Exception):
    """Nobody waits for this work any more."""


class SharedJob:
    """One piece of work. `result` may be awaited by all who hold it."""

    def __init__(
        self, key: Hashable, num_bytes: int, threads: Executor, work: Callable[["SharedJob"], Any]
    ) -> None:
        self.key = key
        self.num_bytes = num_bytes
        self.num_holders = 0
        self.cancelled = threading.Event()
        self._running = threads.submit(self._run, work)
        self._future = asyncio.wrap_future(self._running)
        self._future.add_done_callback(_retrieve)

    def _run(self, work: Callable[["SharedJob"], Any]) -> Any:
        self.check_cancelled()  # it may have waited for a thread
        return work(self)

    def check_cancelled(self) -> None:
        """Raises: JobCancelled."""
        if self.cancelled.is_set():
            raise JobCancelled

    async def result(self) -> Any:
        """What the work returns or raises. Cancelling this call does not end the work."""
        return await asyncio.shield(self._future)

    @property
    def is_done(self) -> bool:
        return self._future.done()

    def stop(self) -> None:
        self.cancelled.set()
        self._running.cancel()  # if it still waits for a thread

    async def ended(self) -> None:
        if not self.is_done:
            await asyncio.wait([self._future])


class SharedJobs:
    """The jobs under way, and those that are done but still held.

    Args:
        take, give_back: an account of the bytes that jobs hold; `take` may refuse by raising.
    """

    def __init__(self, take: Callable[[int], None], give_back: Callable[[int], None]) -> None:
        self._take = take
        self._give_back = give_back
        self._jobs: dict[Hashable, SharedJob] = {}

    def join(
        self,
        key: Hashable,
        num_bytes: int,
        threads: Executor,
        work: Callable[[SharedJob], Any],
    ) -> SharedJob:
        """Hold the job of this key; it is started if nobody holds it yet.

        Raises: whatever `take` does.
        """
        job = self._jobs.get(key)
        if job is None:
            self._take(num_bytes)
            job = self._jobs[key] = SharedJob(key, num_bytes, threads, work)
        job.num_holders += 1
        return job

    async def release(self, jobs: Iterable[SharedJob]) -> None:
        """Let jobs go. One that nobody else holds is ended first, and its bytes are given back."""
        left = [job for job in jobs if self._leave(job)]
        for job in left:
            job.stop()
        ending = self._end(left)
        if all(job.is_done for job in left):
            await ending  # at once; a task of its own would cost more than all else
        else:
            await asyncio.shield(ending)

    async def _end(self, jobs: Sequence[SharedJob]) -> None:
        for job in jobs:
            await job.ended()
            self._give_back(job.num_bytes)

    def _leave(self, job: SharedJob) -> bool:
        job.num_holders -= 1
        if job.num_holders == 0:
            del self._jobs[job.key]
        return job.num_holders == 0


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Whoever waited for a failed job may be gone; asyncio would log that nobody looked."""
    if not future.cancelled():
        future.exception()
