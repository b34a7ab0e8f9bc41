"""Clients that go away: over plain ASGI, and over a socket with uvicorn."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import httpx
import orjson
import pytest
import uvicorn

from server.settings import Settings
from tests.fake_backend import FakeRenderer, Server, image_part, make_body
from tests.fake_engine import make_chunk

pytestmark = pytest.mark.alone


class Client:
    """One ASGI exchange, driven by hand."""

    def __init__(
        self, server: Server, headers: Sequence[tuple[bytes, bytes]] = (), **fields: Any
    ) -> None:
        self.sent: list[dict[str, Any]] = []
        self.has_sent_body = asyncio.Event()
        self._left = asyncio.Event()
        self._messages = [{"type": "http.request", "body": orjson.dumps(make_body(**fields))}]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/chat/completions",
            "headers": [(b"content-type", b"application/json"), *headers],
            "query_string": b"",
        }
        self._task = asyncio.create_task(server.app(scope, self._receive, self._send))

    async def leave(self) -> None:
        """Go away, and wait until the server is through with the request."""
        self._left.set()
        await self._task

    async def wait(self) -> None:
        """Stay, until the server is through with the request."""
        await self._task

    async def _receive(self) -> dict[str, Any]:
        if self._messages:
            return self._messages.pop(0)
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        if message["type"] == "http.response.body":
            self.has_sent_body.set()


class UnreadingClient(Client):
    """It reads the first event of a stream, and nothing from then on."""

    async def _send(self, message: dict[str, Any]) -> None:
        has_read = self.has_sent_body.is_set()
        await super()._send(message)
        if has_read:
            await asyncio.Event().wait()


def assert_aborted(server: Server) -> None:
    """All that was asked of the engine."""
    assert set(server.engine.aborted) == {request.request_id for request in server.engine.requests}
    assert len(server.engine.aborted) == len(server.engine.requests) > 0
    assert server.sample("qwen3vl_requests_total", outcome="aborted", status="499") == 1
    assert server.sample("qwen3vl_requests_in_flight") == 0


async def test_disconnect_mid_stream_aborts_the_engine_request():
    server = Server(make_chunk("A "), asyncio.Event())
    client = Client(server, stream=True)
    await client.has_sent_body.wait()
    await client.leave()
    assert_aborted(server)


async def test_client_that_does_not_read_its_stream_is_given_up():
    settings = Settings(server={"write_timeout_s": 0.01})
    server = Server(make_chunk("A "), make_chunk("B "), asyncio.Event(), settings=settings)
    client = UnreadingClient(server, stream=True)
    await client.wait()
    assert_aborted(server)
    types = [message["type"] for message in client.sent]
    assert types == ["http.response.start", *["http.response.body"] * 2]


@pytest.mark.parametrize("num_choices", [2, 5])
async def test_disconnect_aborts_all_choices(num_choices):
    server = Server(make_chunk("A "), asyncio.Event())
    client = Client(server, stream=True, n=num_choices)
    await client.has_sent_body.wait()
    await client.leave()
    assert_aborted(server)


async def test_client_that_does_not_read_its_choices_is_given_up():
    settings = Settings(server={"write_timeout_s": 0.01})
    server = Server(*[make_chunk("A ")] * 100, asyncio.Event(), settings=settings)
    client = UnreadingClient(server, stream=True, n=3)
    await client.wait()
    assert_aborted(server)


async def test_disconnect_behind_cut_thinking_aborts_the_second_request_too():
    server = Server(renderer=FakeRenderer("thinking"))
    server.engine.scripts = [
        [make_chunk("one two three"), asyncio.Event()],
        [make_chunk("A "), asyncio.Event()],
    ]
    client = Client(server, stream=True, thinking_budget=2, max_tokens=90)
    while len(server.engine.requests) < 2:
        await asyncio.sleep(0)
    await client.leave()
    assert_aborted(server)


@pytest.mark.parametrize("stream", [True, False])
async def test_disconnect_before_the_first_token_aborts_the_engine_request(stream):
    server = Server(asyncio.Event())
    client = Client(server, stream=stream)
    await server.engine.has_started.wait()
    await client.leave()
    assert_aborted(server)
    assert client.sent == []


async def test_disconnect_while_a_whole_answer_is_generated_aborts_the_engine_request():
    server = Server(make_chunk("A "), asyncio.Event())
    client = Client(server)
    await server.engine.has_started.wait()
    await client.leave()
    assert_aborted(server)


async def test_disconnect_while_media_are_loaded_never_reaches_the_engine():
    server = Server()
    is_loading, was_cancelled = asyncio.Event(), []

    async def load(refs, max_tokens, tenant):
        is_loading.set()
        try:
            await asyncio.Event().wait()
        finally:
            was_cancelled.append(True)

    server.pipeline.load = load
    client = Client(server, content=[image_part()])
    await is_loading.wait()
    await client.leave()
    assert was_cancelled and server.engine.requests == []
    assert server.sample("qwen3vl_requests_total", outcome="aborted", status="499") == 1


async def test_place_of_a_client_that_left_is_free_again():
    server = Server(asyncio.Event())
    client = Client(server)
    await server.engine.has_started.wait()
    await client.leave()
    server.engine.script = [make_chunk("A cat.", finish="stop")]
    assert (await server.post()).status_code == 200


@contextlib.asynccontextmanager
async def listen(server: Server):
    """The application behind uvicorn on a free port of the loopback; its base URL."""
    config = uvicorn.Config(server.app, port=0, log_level="error", lifespan="off")
    http = uvicorn.Server(config)
    serving = asyncio.create_task(http.serve())
    while not http.started:
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{http.servers[0].sockets[0].getsockname()[1]}"
    http.should_exit = True
    await serving


@pytest.mark.parametrize("stream", [True, False])
async def test_closed_socket_aborts_the_engine_request(stream):
    server = Server(make_chunk("A "), asyncio.Event())
    async with listen(server) as base_url, httpx.AsyncClient(base_url=base_url) as client:
        posting = asyncio.create_task(
            client.post("/v1/chat/completions", json=make_body(stream=stream))
        )
        await server.engine.has_started.wait()
        posting.cancel()
        while not server.engine.aborted:
            await asyncio.sleep(0.01)
    assert_aborted(server)
