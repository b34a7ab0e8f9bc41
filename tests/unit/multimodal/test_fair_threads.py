"""Whose work a thread takes next."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from multimodal.fair_threads import CURRENT_CLIENT, FairThreads


class Threads(FairThreads):
    """One thread, which waits until `gate` is open; keeps what it has done."""

    def __init__(self) -> None:
        super().__init__(1, "test", lambda: None)
        self.gate = threading.Event()
        self.done: list[str] = []
        self.submit(self.gate.wait)

    def ask(self, name: str) -> Future[None]:
        """`a1` is of the client `a`."""
        token = CURRENT_CLIENT.set(name[0])
        try:
            return self.submit(self.done.append, name)
        finally:
            CURRENT_CLIENT.reset(token)


@pytest.fixture
def threads() -> Iterator[Threads]:
    threads = Threads()
    yield threads
    threads.gate.set()
    threads.shutdown()


def test_clients_take_turns(threads: Threads) -> None:
    futures = [threads.ask(name) for name in ("a1", "a2", "a3", "b1", "c1", "b2")]
    threads.gate.set()
    for future in futures:
        future.result(60)
    assert threads.done == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_work_that_is_not_wanted_any_more_is_passed_over(threads: Threads) -> None:
    futures = [threads.ask(name) for name in ("a1", "b1", "a2")]
    assert futures[1].cancel()
    threads.gate.set()
    futures[2].result(60)
    assert threads.done == ["a1", "a2"]


def test_a_failure_is_that_of_its_work(threads: Threads) -> None:
    failing = threads.submit(lambda: 1 // 0)
    threads.gate.set()
    with pytest.raises(ZeroDivisionError):
        failing.result(60)
    assert threads.submit(lambda: 1).result(60) == 1


def test_what_waits_at_the_end_is_cancelled(threads: Threads) -> None:
    waiting = [threads.ask(name) for name in ("a1", "b1")]
    threading.Timer(0.1, threads.gate.set).start()
    threads.shutdown(cancel_futures=True)
    assert all(future.cancelled() for future in waiting)
