"""Conversations of a workload, drawn before they are needed."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from benchmarks.workload.turn import Conversation
from benchmarks.workload.workload import Workload

# A conversation behind its number in the workload.
Numbered = tuple[int, Conversation]


class ConversationSource:
    """Gives every conversation once. Threads are enough: drawing mostly releases the GIL."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._next = 0
        self._num_threads = len(os.sched_getaffinity(0))
        self._threads = ThreadPoolExecutor(self._num_threads, "draw")

    def caveats(self) -> Iterator[str]:
        """What is not as the workload promises."""
        num_distinct = self._workload.num_distinct
        if num_distinct is not None and self._next > num_distinct:
            yield (
                f"The workload has {num_distinct} different conversations and {self._next} were "
                "needed: caches know the repeated ones."
            )

    def take(self, num_requests: int, on_drawn: Callable[[int], None]) -> Sequence[Numbered]:
        """Conversations of so many requests in all; the last one is cut if need be.

        Args:
            on_drawn: called with the number of requests that are there so far.
        """
        taken: list[Numbered] = []
        missing = num_requests
        while missing > 0:
            numbers = range(self._next, self._next + min(missing, self._num_threads))
            for number, conversation in zip(
                numbers, self._threads.map(self._workload.conversation, numbers), strict=True
            ):
                if missing > 0:
                    taken.append((number, conversation[:missing]))
                    missing -= len(taken[-1][1])
                    self._next = number + 1
            on_drawn(num_requests - missing)
        return taken

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()
