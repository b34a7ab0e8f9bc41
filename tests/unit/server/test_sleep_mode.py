"""Sleep over HTTP: who is refused meanwhile, who may finish, and what is asked of the engine."""

import asyncio
from typing import Any

import httpx
import pytest

from server.settings import EngineSettings, ServerSettings, Settings
from tests.api_document import check_response
from tests.fake_backend import Server, assert_error
from tests.fake_engine import make_chunk


def sleepy(*script: Any, timeout_s: float = 30) -> Server:
    settings = Settings(
        engine=EngineSettings(enable_sleep_mode=True),
        server=ServerSettings(shutdown_timeout_s=timeout_s),
    )
    return Server(*script, settings=settings)


async def post(server: Server, path: str, **options: Any) -> httpx.Response:
    """The answer, which must be as the document describes it."""
    response = await server.request("POST", path, **options)
    check_response(path.partition("?")[0], response)
    return response


async def is_sleeping(server: Server) -> bool:
    response = await server.request("GET", "/is_sleeping")
    check_response("/is_sleeping", response)
    answer: bool = response.json()["is_sleeping"]
    return answer


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/sleep"), ("POST", "/wake_up"), ("GET", "/is_sleeping")]
)
async def test_without_the_setting_there_is_no_sleep(method: str, path: str) -> None:
    server = Server()
    response = await server.request(method, path)
    check_response(path, response)
    assert "`engine.enable_sleep_mode`" in assert_error(response, 404, "sleep_mode_off")
    assert server.engine.sleeps == []


@pytest.mark.parametrize("level", [1, 2])
async def test_the_engine_sleeps_and_wakes(level: int) -> None:
    server = sleepy()
    assert not await is_sleeping(server)
    asleep = await post(server, f"/sleep?level={level}")
    assert asleep.json() == {"status": "sleeping", "level": level}
    assert await is_sleeping(server)
    awake = await post(server, "/wake_up")
    assert awake.json() == {"status": "awake", "tags": None}
    assert server.engine.sleeps == [f"sleep {level}", "wake kv_cache weights"]
    assert not await is_sleeping(server)
    assert (await server.post()).status_code == 200


async def test_asleep_the_server_lives_and_refuses() -> None:
    server = sleepy()
    await post(server, "/sleep")
    assert (await server.request("GET", "/health")).status_code == 200
    assert_error(await server.request("GET", "/ready"), 503, "sleeping")
    refused = await server.post()
    assert_error(refused, 503, "sleeping")
    assert "retry-after" in refused.headers
    assert server.engine.requests == []


async def test_parts_may_be_woken_one_after_the_other() -> None:
    server = sleepy()
    await post(server, "/sleep")
    first = await post(server, "/wake_up?tags=weights")
    assert first.json() == {"status": "sleeping", "tags": ["weights"]}
    assert_error(await server.post(), 503, "sleeping")
    second = await post(server, "/wake_up?tags=kv_cache")
    assert second.json() == {"status": "awake", "tags": ["kv_cache"]}
    assert (await server.post()).status_code == 200


async def test_an_accepted_request_finishes_before_the_sleep() -> None:
    release = asyncio.Event()
    server = sleepy(make_chunk("A"), release, make_chunk(" cat.", finish="stop"))
    first = asyncio.create_task(server.post())
    await server.engine.has_started.wait()
    sleep = asyncio.create_task(post(server, "/sleep"))
    while not await is_sleeping(server):
        await asyncio.sleep(0)
    assert_error(await server.post(), 503, "sleeping")
    assert server.engine.sleeps == []
    release.set()
    assert (await first).json()["choices"][0]["message"]["content"] == "A cat."
    assert (await sleep).status_code == 200
    assert server.engine.sleeps == ["sleep 1"]


async def test_a_request_that_takes_too_long_is_ended() -> None:
    server = sleepy(make_chunk("A"), asyncio.Event(), timeout_s=0.05)
    first = asyncio.create_task(server.post())
    await server.engine.has_started.wait()
    assert (await post(server, "/sleep")).status_code == 200
    assert_error(await first, 503, "sleeping")
    assert len(server.engine.aborted) == 1
    server.engine.script = [make_chunk("Again", finish="stop")]
    await post(server, "/wake_up")
    assert (await server.post()).status_code == 200  # the time that was over is so no more


async def test_a_second_sleep_changes_nothing_and_another_level_is_refused() -> None:
    server = sleepy()
    await post(server, "/sleep?level=1")
    assert (await post(server, "/sleep?level=1")).status_code == 200
    assert_error(await post(server, "/sleep?level=2"), 409, "sleeping")
    assert server.engine.sleeps == ["sleep 1"]


async def test_waking_an_awake_engine_does_nothing() -> None:
    server = sleepy()
    assert (await post(server, "/wake_up")).json()["status"] == "awake"
    assert server.engine.sleeps == []


async def test_calls_at_the_same_time_come_one_after_the_other() -> None:
    server = sleepy()
    calls = [post(server, path) for path in ("/sleep", "/wake_up", "/sleep?level=2", "/wake_up")]
    answers = await asyncio.gather(*calls)
    assert [answer.status_code for answer in answers] == [200] * 4
    assert server.engine.asleep == set()
    assert (await server.post()).status_code == 200


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/sleep?level=0", "level"),
        ("/sleep?level=3", "level"),
        ("/sleep?level=x", "level"),
        ("/sleep?mode=keep", "mode"),
        ("/wake_up?tags=scheduling", "tags"),
        ("/wake_up?tags=weights&tags=", "tags"),
    ],
)
async def test_what_is_not_offered_is_refused(path: str, param: str) -> None:
    server = sleepy()
    answer = await post(server, path)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert server.engine.sleeps == []


@pytest.mark.parametrize("path", ["/sleep", "/wake_up"])
async def test_web_pages_are_refused(path: str) -> None:
    server = sleepy()
    answer = await post(server, path, headers={"origin": "https://evil.example"})
    assert_error(answer, 403, "web_page")
    assert server.engine.sleeps == []


async def test_a_dead_engine_cannot_sleep() -> None:
    server = sleepy()
    server.engine.is_dead = True
    assert_error(await post(server, "/sleep"), 503, "engine_dead")


async def test_shutdown_wins_over_sleep() -> None:
    server = sleepy()
    await post(server, "/sleep")
    server.state.drain()
    await post(server, "/wake_up")
    assert_error(await server.post(), 503, "shutting_down")
