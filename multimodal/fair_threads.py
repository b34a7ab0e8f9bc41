"""Threads that clients use in turn, so that one with much work does not keep others waiting."""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from functools import partial
from typing import Any

# Who the work of the present task is for; "" where nobody says so.
CURRENT_CLIENT: ContextVar[str] = ContextVar("current_client", default="")

_Job = tuple[Future[Any], Callable[[], Any]]


class FairThreads(ThreadPoolExecutor):
    """An executor that takes the work of one client after the other's, each in order."""

    def __init__(self, num_threads: int, name: str, start_thread: Callable[[], object]) -> None:
        super().__init__(num_threads, name, start_thread)
        self._waiting: OrderedDict[str, deque[_Job]] = OrderedDict()
        self._waiting_lock = threading.Lock()

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with self._waiting_lock:
            jobs = self._waiting.setdefault(CURRENT_CLIENT.get(), deque())
            jobs.append((future, partial(work, *args, **kwargs)))
        super().submit(self._run_next)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if cancel_futures:
            while (job := self._take()) is not None:
                job[0].cancel()
        super().shutdown(wait, cancel_futures=cancel_futures)

    def _run_next(self) -> None:
        """Runs as often as there are jobs; whose job it is, is known only then."""
        job = self._take()
        if job is None:
            return
        future, work = job
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = work()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    def _take(self) -> _Job | None:
        with self._waiting_lock:
            if not self._waiting:
                return None
            client_id, jobs = self._waiting.popitem(last=False)
            job = jobs.popleft()
            if jobs:
                self._waiting[client_id] = jobs  # behind the other clients
            return job
