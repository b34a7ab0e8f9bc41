"""Shutdown: accepted work has the time it was promised, and is told when that is over."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from server.errors import NotReady
from server.settings import Settings
from server.state import ServerState
from tests.fake_backend import Server


async def test_work_in_progress_ends_when_the_grace_is_over() -> None:
    state = ServerState(Settings())
    asyncio.get_running_loop().call_soon(state.drain, 0.01)
    with pytest.raises(NotReady, match="shutting down"):
        async with state.until_shutdown():
            await asyncio.Event().wait()


async def test_work_begun_after_the_grace_ends_at_once() -> None:
    state = ServerState(Settings())
    state.drain(0)
    with pytest.raises(NotReady):
        async with state.until_shutdown():
            await asyncio.Event().wait()


async def test_a_second_signal_does_not_prolong_the_grace() -> None:
    state = ServerState(Settings())
    state.drain(0)
    state.drain(3600)
    with pytest.raises(NotReady):
        async with state.until_shutdown():
            await asyncio.Event().wait()


async def test_a_timeout_of_the_work_itself_is_passed_on() -> None:
    state = ServerState(Settings())
    with pytest.raises(TimeoutError):
        async with state.until_shutdown():
            raise TimeoutError


async def test_everything_is_closed_although_a_part_fails() -> None:
    closed: list[str] = []

    def closing(name: str) -> Callable[[], Awaitable[None]]:
        async def close() -> None:
            closed.append(name)
            raise RuntimeError(name)

        return close

    server = Server()
    server.engine.shutdown = closing("engine")
    for name in ("pipeline", "fetcher", "grammars"):
        getattr(server, name).close = closing(name)
    with pytest.raises(RuntimeError):
        await server.state.close()
    assert sorted(closed) == ["engine", "fetcher", "grammars", "pipeline"]
