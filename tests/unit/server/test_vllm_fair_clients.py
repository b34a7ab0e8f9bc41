"""Whose request vLLM admits next; the scheduler underneath admits one in each step."""

import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.v1.core.sched.request_queue import PriorityRequestQueue
from vllm.v1.request import Request

from server.vllm_fair_clients import _MANY_CLIENTS, CLIENT_ID, FairClients


class OneAtATime:
    def __init__(self) -> None:
        self.requests: dict[str, Any] = {}
        self.waiting = PriorityRequestQueue()

    def add_request(self, request: Any) -> None:
        self.waiting.add_request(request)
        self.requests[request.request_id] = request

    def schedule(self, throttle_prefills: bool = False) -> Any:
        admitted = [self.waiting.pop_request()] if self.waiting else []
        new = [SimpleNamespace(req_id=request.request_id) for request in admitted]
        return SimpleNamespace(scheduled_new_reqs=new)


class Scheduler(FairClients, OneAtATime):
    def add(self, *names: str, priority: int = 0) -> None:
        """`a1` is of the client `a`."""
        for name in names:
            self.add_request(make_request(name, priority))

    def admit(self, number: int) -> list[str]:
        """Who is admitted in so many steps, and is finished then."""
        admitted = []
        for _ in range(number):
            names = [new.req_id for new in self.schedule().scheduled_new_reqs]
            self.finish(names)
            admitted += names
        return admitted

    def finish(self, names: Iterable[str]) -> None:
        for name in names:
            request = self.requests.pop(name)
            self.waiting.remove_requests({request})


def make_request(name: str, priority: int = 0) -> Request:
    from vllm import SamplingParams

    client_id = name[0] if name[0] != "-" else ""
    sampling = SamplingParams(max_tokens=1, extra_args={CLIENT_ID: client_id})
    return Request(name, [1], sampling, None, arrival_time=time.monotonic(), priority=priority)


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler()


def test_a_client_alone_is_served_in_the_order_of_arrival(scheduler: Scheduler) -> None:
    scheduler.add("a1", "a2", "a3")
    assert scheduler.admit(3) == ["a1", "a2", "a3"]


def test_clients_take_turns(scheduler: Scheduler) -> None:
    scheduler.add("a1", "a2", "a3", "a4", "b1", "b2", "c1")
    assert scheduler.admit(7) == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]


def test_a_flood_delays_a_newcomer_by_one_request(scheduler: Scheduler) -> None:
    scheduler.add(*(f"a{number}" for number in range(100)))
    scheduler.admit(50)
    scheduler.add("b1", "b2")
    assert scheduler.admit(4) == ["b1", "a50", "b2", "a51"]


def test_a_flood_is_not_starved_by_clients_that_ask_again_and_again(scheduler: Scheduler) -> None:
    scheduler.add(*(f"a{number}" for number in range(100)))
    admitted = []
    for number in range(60):
        scheduler.add(f"b{number}", f"c{number}")
        admitted += scheduler.admit(1)
    served = [name[0] for name in admitted]
    assert served.count("a") >= 19


def test_what_was_served_when_nobody_waited_is_not_held_against_a_client(
    scheduler: Scheduler,
) -> None:
    for number in range(50):
        scheduler.add(f"a{number}")
        scheduler.admit(1)
    scheduler.add("b1", "b2", "b3", "a50", "a51")
    assert scheduler.admit(5) == ["b1", "b2", "a50", "b3", "a51"]


def test_requests_that_were_given_up_do_not_count(scheduler: Scheduler) -> None:
    scheduler.add(*(f"a{number}" for number in range(100)))
    scheduler.finish([f"a{number}" for number in range(100)])
    scheduler.add("a100", "b1", "b2", "b3")
    assert scheduler.admit(4) == ["a100", "b1", "b2", "b3"]


def test_priorities_are_among_the_requests_of_one_client(scheduler: Scheduler) -> None:
    scheduler.add("a1", "a2", "b1")
    scheduler.add("a3", priority=-5)
    scheduler.add("b2", priority=7)
    scheduler.add("b3")
    assert scheduler.admit(6) == ["a3", "b1", "a1", "b3", "a2", "b2"]


def test_requests_without_a_client_are_of_one(scheduler: Scheduler) -> None:
    scheduler.add("-1", "-2", "b1")
    assert scheduler.admit(3) == ["-1", "b1", "-2"]


def test_clients_that_have_gone_are_forgotten(scheduler: Scheduler) -> None:
    for number in range(3 * _MANY_CLIENTS):
        request = make_request(f"a{number}")
        request.sampling_params.extra_args = {CLIENT_ID: f"client {number}"}
        scheduler.add_request(request)
        scheduler.admit(1)
        if number % 2:
            scheduler.add(f"b{number}")
            scheduler.admit(1)
    assert len(scheduler._admitted) <= _MANY_CLIENTS + 1
    assert len(scheduler._lines) <= 3 * _MANY_CLIENTS
