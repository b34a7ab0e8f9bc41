"""Cache resets over HTTP: what is asked of the engine, and when they are refused."""

import asyncio
from typing import Any

import httpx
import pytest

from server.settings import EngineSettings, Settings
from tests.api_document import check_response
from tests.fake_backend import Server, assert_error
from tests.fake_engine import make_chunk

PATHS = ("/reset_prefix_cache", "/reset_encoder_cache")


async def post(server: Server, path: str, **options: Any) -> httpx.Response:
    """The answer, which must be as the document describes it."""
    response = await server.request("POST", path, **options)
    check_response(path.partition("?")[0], response)
    return response


async def test_the_prefix_cache_is_reset() -> None:
    server = Server()
    assert (await post(server, "/reset_prefix_cache")).json() == {"success": True}
    assert server.engine.resets == ["prefix"]


async def test_a_prefix_cache_in_use_is_not() -> None:
    server = Server()
    server.engine.is_busy = True
    assert_error(await post(server, "/reset_prefix_cache"), 409, "requests_running")
    assert server.engine.resets == []


@pytest.mark.parametrize(
    ("query", "tiers"),
    [
        ("", ["device", "host", "disk"]),
        ("?tiers=disk", ["disk"]),
        ("?tiers=disk&tiers=device&tiers=disk", ["device", "disk"]),
    ],
)
async def test_the_tiers_of_the_vision_cache_are_reset(query: str, tiers: list[str]) -> None:
    server = Server()
    answer = await post(server, f"/reset_encoder_cache{query}")
    assert answer.json() == {"success": True, "tiers": tiers}
    assert server.engine.resets == [" ".join(tiers)]
    assert (await server.post()).status_code == 200


@pytest.mark.parametrize("query", ["?tiers=gpu", "?tiers=", "?tiers=host&tiers=x"])
async def test_another_tier_is_refused(query: str) -> None:
    server = Server()
    answer = await post(server, f"/reset_encoder_cache{query}")
    assert_error(answer, 400, "invalid_value", "tiers")
    assert server.engine.resets == []


async def test_the_device_is_not_reset_under_a_running_request() -> None:
    """Its embeddings would be gone in the middle of a prompt."""
    release = asyncio.Event()
    server = Server(make_chunk("A"), release, make_chunk("", finish="stop"))
    running = asyncio.create_task(server.post())
    await server.engine.has_started.wait()
    assert_error(await post(server, "/reset_encoder_cache"), 409, "requests_running")
    assert (await post(server, "/reset_encoder_cache?tiers=host")).status_code == 200
    release.set()
    assert (await running).status_code == 200
    assert server.engine.resets == ["host"]
    assert (await post(server, "/reset_encoder_cache")).status_code == 200


async def test_no_request_gets_in_while_the_device_is_reset() -> None:
    server, release = Server(), asyncio.Event()
    began = asyncio.Event()

    async def reset(tiers: object) -> None:
        began.set()
        await release.wait()

    server.engine.reset_encoder_cache = reset  # type: ignore[method-assign,assignment]
    first = asyncio.create_task(post(server, "/reset_encoder_cache"))
    await began.wait()
    refused = await server.post()
    assert_error(refused, 503, "cache_reset")
    assert "retry-after" in refused.headers
    assert_error(await post(server, "/reset_encoder_cache"), 409, "cache_reset")
    release.set()
    assert (await first).status_code == 200
    assert (await server.post()).status_code == 200


async def test_a_reset_that_fails_lets_requests_in_again() -> None:
    server = Server()
    server.engine.is_dead = True
    assert_error(await post(server, "/reset_encoder_cache"), 503, "engine_dead")
    server.engine.is_dead = False
    assert (await server.post()).status_code == 200


async def test_one_of_several_processes_does_not_reset_the_device() -> None:
    """It knows of its own requests only."""
    server = Server(settings=Settings(server={"api_workers": 2}))
    assert_error(await post(server, "/reset_encoder_cache"), 409, "api_workers")
    assert (await post(server, "/reset_encoder_cache?tiers=host&tiers=disk")).status_code == 200
    assert (await post(server, "/reset_prefix_cache")).status_code == 200


@pytest.mark.parametrize("path", PATHS)
async def test_a_sleeping_engine_has_no_caches(path: str) -> None:
    server = Server(settings=Settings(engine=EngineSettings(enable_sleep_mode=True)))
    await server.request("POST", "/sleep")
    assert_error(await post(server, path), 409, "sleeping")
    assert server.engine.resets == []


@pytest.mark.parametrize("path", PATHS)
async def test_web_pages_are_refused(path: str) -> None:
    server = Server()
    answer = await post(server, path, headers={"origin": "https://evil.example"})
    assert_error(answer, 403, "web_page")
    assert server.engine.resets == []


@pytest.mark.parametrize("path", PATHS)
async def test_while_loading_there_is_nothing_to_reset(path: str) -> None:
    assert_error(await post(Server(is_loaded=False), path), 503, "not_ready")


@pytest.mark.parametrize("path", PATHS)
async def test_reading_resets_nothing(path: str) -> None:
    server = Server()
    assert_error(await server.request("GET", path), 405, "method_not_allowed")
    assert server.engine.resets == []
