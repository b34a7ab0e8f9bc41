"""An engine that has died is started again: what clients see meanwhile, and when that ends."""

import asyncio
from dataclasses import dataclass

import pytest

from server.engine import EngineDead
from server.engine_restarts import EngineRestarts, RestartPauses
from server.settings import EngineSettings, Settings, SettingsError, load_settings
from tests.api_document import check_response
from tests.fake_backend import Server, assert_error
from tests.fake_engine import make_chunk


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


class NoPauses(RestartPauses):
    def next_pause_s(self) -> float | None:
        return None if super().next_pause_s() is None else 0.0


def restarting_server(*script: object) -> Server:
    return Server(*script, settings=Settings(engine=EngineSettings(restart_engine=True)))


def pauses_until_the_end(pauses: RestartPauses) -> list[float]:
    return list(iter(pauses.next_pause_s, None))


def test_the_first_start_is_at_once_and_further_ones_wait_longer() -> None:
    assert pauses_until_the_end(RestartPauses(Clock())) == [0, 1, 2, 4, 8]


def test_a_start_that_fails_after_a_long_time_counts() -> None:
    clock = Clock()
    pauses = RestartPauses(clock)
    for _ in range(5):
        assert pauses.next_pause_s() is not None
        clock.now_s += 3600
    assert pauses.next_pause_s() is None


@pytest.mark.parametrize(("ran_s", "num_more"), [(599, 3), (600, 5)])
def test_an_engine_that_has_run_for_long_begins_a_new_row(ran_s: float, num_more: int) -> None:
    clock = Clock()
    pauses = RestartPauses(clock)
    pauses.next_pause_s()
    pauses.next_pause_s()
    pauses.note_start()
    clock.now_s += ran_s
    assert len(pauses_until_the_end(pauses)) == num_more


async def test_a_restarted_engine_answers_again() -> None:
    server = restarting_server()
    server.engine.is_dead = True
    assert await EngineRestarts(server.state).restart(server.engine)
    assert (await server.request("GET", "/ready")).status_code == 200
    assert (await server.post()).status_code == 200


async def test_meanwhile_the_server_lives_and_refuses() -> None:
    server = restarting_server()
    with server.state.restarting():
        health = await server.request("GET", "/health")
        check_response("/health", health)
        assert health.json() == {"status": "restarting", "implementation": None}
        assert_error(await server.request("GET", "/ready"), 503, "restarting")
        refused = await server.post()
        assert_error(refused, 503, "restarting")
        assert "retry-after" in refused.headers
    assert (await server.request("GET", "/health")).json()["status"] == "ok"


async def test_a_death_that_nobody_has_noticed_yet_is_no_end_of_the_server() -> None:
    server = restarting_server()
    server.engine.is_dead = True
    health = await server.request("GET", "/health")
    assert (health.status_code, health.json()["status"]) == (200, "restarting")
    assert_error(await server.request("GET", "/ready"), 503, "engine_dead")
    server.state.engine_died = True  # it was given up
    assert_error(await server.request("GET", "/health"), 503, "engine_dead")


async def test_without_the_setting_a_dead_engine_is_unhealthy() -> None:
    server = Server()
    server.engine.is_dead = True
    assert_error(await server.request("GET", "/health"), 503, "engine_dead")


async def test_the_start_waits_for_requests_to_be_told() -> None:
    told = asyncio.Event()
    server = restarting_server(make_chunk("a"), told, EngineDead())
    answer = asyncio.create_task(server.post())
    await server.engine.has_started.wait()
    restart = asyncio.create_task(EngineRestarts(server.state).restart(server.engine))
    await asyncio.sleep(0.01)
    assert server.engine.num_restarts == 0
    told.set()
    assert_error(await answer, 503, "engine_dead")
    assert await restart


async def test_a_start_that_fails_is_tried_again() -> None:
    server = restarting_server()
    server.engine.restart_failures = [RuntimeError("no memory"), SettingsError("too little")]
    assert await EngineRestarts(server.state, NoPauses()).restart(server.engine)
    assert server.engine.num_restarts == 3


async def test_an_engine_that_does_not_start_is_given_up() -> None:
    server = restarting_server()
    server.engine.restart_failures = [RuntimeError("no memory")] * 9
    assert not await EngineRestarts(server.state, NoPauses()).restart(server.engine)
    assert server.engine.num_restarts == 5


async def test_an_engine_that_slept_is_awake_afterwards() -> None:
    server = restarting_server()
    server.state.fall_asleep(2, 0)
    assert await EngineRestarts(server.state).restart(server.engine)
    assert not server.state.is_asleep
    assert (await server.post()).status_code == 200


@pytest.mark.parametrize(
    ("server", "engine", "message"),
    [
        ({"api_workers": 2}, {}, r"engine\.restart_engine: needs server\.api_workers to be 1"),
        ({}, {"nnodes": 2}, r"engine\.restart_engine.*all processes.*on this machine"),
        ({}, {"distributed_executor_backend": "ray"}, r"engine\.restart_engine.*without ray"),
    ],
)
def test_engines_that_are_not_this_process_s_alone_are_not_restarted(
    server: dict[str, object], engine: dict[str, object], message: str
) -> None:
    overrides = {"server": server, "engine": {"restart_engine": True, **engine}}
    with pytest.raises(SettingsError, match=message):
        load_settings(None, overrides)
