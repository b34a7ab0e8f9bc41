"""What clients may take of the server, and for how long: places, bytes, time, connections."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import httpx
import orjson
import pytest
import uvicorn

from server.http_protocol import BoundedProtocol
from server.settings import Settings
from tests.e2e.test_http_fake_engine_disconnect import Client, assert_aborted
from tests.fake_backend import IMAGE_URL, Server, assert_error, image_part, make_body
from tests.fake_engine import make_chunk

pytestmark = pytest.mark.alone

DONE = make_chunk("A cat.", finish="stop")
HANG_S = 60.0
KEEP_ALIVE = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"


async def wait_for(server: Server, num_requests: int) -> None:
    """Until the engine has been asked so often."""
    async with asyncio.timeout(HANG_S):
        while len(server.engine.requests) < num_requests:
            await asyncio.sleep(0.001)


def posting(server: Server, key: str = "", **fields: Any) -> asyncio.Task[httpx.Response]:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    body = make_body(**fields)
    path = "/v1/chat/completions"
    return asyncio.create_task(server.request("POST", path, json=body, headers=headers))


# ---- places


async def test_a_flood_leaves_places_to_other_keys() -> None:
    gate = asyncio.Event()
    server = Server(gate, DONE, settings=Settings(server={"max_concurrent_requests": 16}))
    flood = [posting(server, "flood") for _ in range(100)]
    await wait_for(server, 14)
    others = [posting(server, key) for key in ("", "light")]
    await wait_for(server, 16)
    gate.set()
    assert [(await response).status_code for response in others] == [200, 200]
    outcomes = [await response for response in flood]
    assert [response.status_code for response in outcomes].count(200) == 14
    refused = next(response for response in outcomes if response.status_code != 200)
    assert_error(refused, 503, "overloaded")
    assert refused.headers["retry-after"] == "1"


async def test_the_engine_is_told_whose_request_it_is() -> None:
    server = Server()
    await posting(server, "one")
    await posting(server, "two")
    await posting(server)
    one, two, none = (request.client_id for request in server.engine.requests)
    assert one and two and one != two and none == ""


# ---- bytes


async def test_bodies_that_are_being_read_are_bounded_together() -> None:
    settings = Settings(server={"max_body_bytes": 10_000, "max_total_body_bytes": 20_000})
    server = Server(settings=settings)
    slow = [SlowUpload(server, b"x" * 6_000) for _ in range(3)]
    async with asyncio.timeout(HANG_S):
        await slow[2].wait()
    assert slow[2].sent[0]["status"] == 503
    assert b"max_total_body_bytes" in slow[2].sent[1]["body"]
    assert (await server.post("x" * 7_000)).status_code == 503  # the same client's
    assert (await posting(server, "other", content="x" * 7_000)).status_code == 200
    for upload in slow[:2]:
        await upload.leave()
    assert (await server.post("x" * 7_000)).status_code == 200
    assert server.sample("qwen3vl_requests_in_flight") == 0


class SlowUpload(Client):
    """It sends a part of its body, and no more."""

    def __init__(self, server: Server, part: bytes) -> None:
        super().__init__(server)
        self._messages = [{"type": "http.request", "body": part, "more_body": True}]


@pytest.mark.parametrize("url", [IMAGE_URL, "https://example.com/a.png"])
async def test_media_are_held_until_the_request_ends_and_its_body_is_not(url: str) -> None:
    gate = asyncio.Event()
    server = Server(gate, DONE)
    taken = server.state.body_bytes._shares._taken
    server.fetcher.body = b"x" * 500
    task = posting(server, content=[image_part(url)])
    await wait_for(server, 1)
    held = taken[""]
    gate.set()
    await task
    assert held == (8 if url == IMAGE_URL else 500)
    assert taken == {}


async def test_fetched_media_beyond_the_bound_are_refused() -> None:
    settings = Settings(server={"max_body_bytes": 2_000, "max_total_body_bytes": 2_000})
    server = Server(settings=settings)
    server.fetcher.body = b"x" * 1_900
    response = await server.post([image_part("https://example.com/a.png")])
    assert_error(response, 503, "overloaded", None)
    server.fetcher.body = b"x" * 1_000
    assert (await server.post([image_part("https://example.com/a.png")])).status_code == 200


# ---- time


async def test_a_request_that_takes_too_long_gets_a_504() -> None:
    server = Server(asyncio.Event(), settings=Settings(server={"request_timeout_s": 0.3}))
    response = await server.post()
    assert "0.3 s" in assert_error(response, 504, "request_timeout")
    assert_ended_as_error(server, 504)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_may_ask_for_a_shorter_time(stream: bool) -> None:
    server = Server(asyncio.Event())
    response = await server.request(
        "POST",
        "/v1/chat/completions",
        json=make_body(stream=stream),
        headers={"x-request-timeout": "0.3"},
    )
    assert_error(response, 504, "request_timeout")
    assert_ended_as_error(server, 504)


async def test_a_stream_that_takes_too_long_ends_with_an_error_event() -> None:
    server = Server(make_chunk("A "), asyncio.Event())
    client = Client(server, [(b"x-request-timeout", b"0.2")], stream=True)
    await client.wait()
    events = [message["body"] for message in client.sent[1:]]
    assert b"A " in b"".join(events[:-2])
    assert orjson.loads(events[-2].removeprefix(b"data: "))["error"]["code"] == "request_timeout"
    assert events[-1] == b"data: [DONE]\n\n"
    assert_ended_as_error(server, 200)


async def test_anthropic_names_the_timeout_its_way() -> None:
    server = Server(asyncio.Event(), settings=Settings(server={"request_timeout_s": 0.3}))
    body = {**make_body(), "max_tokens": 5}
    response = await server.request("POST", "/v1/messages", json=body)
    assert response.status_code == 504
    assert response.json()["error"]["type"] == "timeout_error"


async def test_the_time_counts_from_the_headers_on() -> None:
    server = Server(settings=Settings(server={"request_timeout_s": 0.3}))
    upload = SlowUpload(server, b"{")
    await upload.wait()
    assert upload.sent[0]["status"] == 504
    assert b"request_timeout" in upload.sent[1]["body"]


async def test_loading_of_media_counts() -> None:
    server = Server(settings=Settings(server={"request_timeout_s": 0.3}))

    async def load(refs, max_tokens, tenant):
        await asyncio.Event().wait()

    server.pipeline.load = load
    assert_error(await server.post([image_part()]), 504, "request_timeout")
    body = {"messages": make_body([image_part()])["messages"], "model": "qwen"}
    assert_error(await server.request("POST", "/tokenize", json=body), 504, "request_timeout")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize"])
async def test_a_malformed_time_is_refused(path: str) -> None:
    response = await Server().request(
        "POST", path, json=make_body(), headers={"x-request-timeout": "soon"}
    )
    assert "x-request-timeout" in assert_error(response, 400, "invalid_value")


def assert_ended_as_error(server: Server, status: int) -> None:
    assert len(server.engine.aborted) == len(server.engine.requests)
    assert server.sample("qwen3vl_requests_in_flight") == 0
    assert server.sample("qwen3vl_requests_total", outcome="error", status=str(status)) == 1


# ---- connections


@contextlib.asynccontextmanager
async def listen(server: Server) -> AsyncIterator[uvicorn.Server]:
    """The application behind uvicorn, with our protocol, on a free port of the loopback."""
    config = uvicorn.Config(
        server.app,
        port=0,
        log_level="error",
        lifespan="off",
        http=partial(BoundedProtocol, server.state.settings.server),
        ws="none",
        timeout_keep_alive=100,
    )
    http = uvicorn.Server(config)
    serving = asyncio.create_task(http.serve())
    while not http.started:
        await asyncio.sleep(0.01)
    try:
        yield http
    finally:
        http.should_exit = http.force_exit = True
        await serving


def address_of(http: uvicorn.Server) -> tuple[str, int]:
    address: tuple[str, int] = http.servers[0].sockets[0].getsockname()
    return address


async def connect(http: uvicorn.Server) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(*address_of(http))


async def assert_closed(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(HANG_S):
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                pass


async def assert_no_connection(http: uvicorn.Server) -> None:
    async with asyncio.timeout(HANG_S):
        while http.server_state.connections:
            await asyncio.sleep(0.01)


def with_limits(**limits: Any) -> Server:
    return Server(settings=Settings(server=limits))


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(KEEP_ALIVE[:-2], id="headers without an end"),
        pytest.param(KEEP_ALIVE, id="nothing after an answer"),
        pytest.param(KEEP_ALIVE + KEEP_ALIVE[:-2], id="the next one without an end"),
    ],
)
async def test_a_connection_without_a_request_is_closed(sent: bytes) -> None:
    async with listen(with_limits(header_timeout_s=0.1)) as http:
        reader, writer = await connect(http)
        writer.write(sent)
        await assert_closed(reader)
        await assert_no_connection(http)
        writer.close()


async def test_headers_that_trickle_do_not_keep_a_connection_open() -> None:
    async with listen(with_limits(header_timeout_s=0.2)) as http:
        reader, writer = await connect(http)
        closed = asyncio.create_task(assert_closed(reader))
        writer.write(b"GET /version HTTP/1.1\r\n")
        async with asyncio.timeout(HANG_S):
            while not closed.done():
                writer.write(b"X-A: b\r\n")
                await asyncio.sleep(0.02)
        await assert_no_connection(http)
        writer.close()


async def test_a_body_that_goes_on_behind_its_answer_does_not_keep_a_connection_open() -> None:
    async with listen(with_limits(header_timeout_s=0.2)) as http:
        reader, writer = await connect(http)
        closed = asyncio.create_task(assert_closed(reader))
        writer.write(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n")
        async with asyncio.timeout(HANG_S):
            while not closed.done():
                writer.write(b"x")
                await asyncio.sleep(0.02)
        await assert_no_connection(http)
        writer.close()


async def test_a_request_hidden_behind_two_lengths_is_not_answered() -> None:
    async with listen(Server()) as http:
        reader, writer = await connect(http)
        head = b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        lengths = b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head + lengths + b"0\r\n\r\n" + KEEP_ALIVE)
        async with asyncio.timeout(HANG_S):
            answers = await reader.read(-1)
        assert answers.startswith(b"HTTP/1.1 400 ") and answers.count(b"HTTP/1.1") == 1
        assert b"ambiguous_length" in answers
        writer.close()


@pytest.mark.parametrize("is_second", [False, True])
async def test_a_request_under_way_keeps_its_connection(is_second: bool) -> None:
    server = with_limits(header_timeout_s=0.1)
    gate = asyncio.Event()
    server.engine.script = [gate, DONE]
    async with listen(server) as http:
        reader, writer = await connect(http)
        body = orjson.dumps(make_body())
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        writer.write((KEEP_ALIVE if is_second else b"") + head.encode() + body)
        await wait_for(server, 1)
        await asyncio.sleep(0.3)
        gate.set()
        async with asyncio.timeout(HANG_S):
            await reader.readuntil(b"A cat.")
        writer.close()


async def test_one_connection_too_many_is_closed_at_once() -> None:
    async with listen(with_limits(max_connections=2, header_timeout_s=600)) as http:
        first, second = await connect(http), await connect(http)
        third, _ = await connect(http)
        await assert_closed(third)
        first[1].close()
        async with asyncio.timeout(HANG_S):
            while len(http.server_state.connections) > 1:
                await asyncio.sleep(0.01)
        reader, writer = await connect(http)
        for _, open_writer in (second, (reader, writer)):
            open_writer.write(KEEP_ALIVE)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        assert (await second[0].readline()).startswith(b"HTTP/1.1 200")


def connect_unreading(http: uvicorn.Server) -> socket.socket:
    """A client with a small window, which reads nothing."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(address_of(http))
    return client


def buffered(http: uvicorn.Server) -> int:
    """What the server keeps for clients that do not read."""
    connections = http.server_state.connections
    return max((each.transport.get_write_buffer_size() for each in connections), default=0)


async def test_a_large_answer_that_nobody_reads_is_not_kept() -> None:
    server = with_limits(write_timeout_s=0.3, header_timeout_s=0.1)
    server.engine.script = [make_chunk("x" * 30_000_000), DONE]
    body = orjson.dumps(make_body())
    async with listen(server) as http:
        client = connect_unreading(http)
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        await server.engine.has_started.wait()
        most = 0
        async with asyncio.timeout(HANG_S):
            while server.sample("qwen3vl_requests_in_flight") != 0:
                most = max(most, buffered(http))
                await asyncio.sleep(0.01)
        assert 0 < most < 300_000
        await assert_no_connection(http)
        client.close()
    assert server.sample("qwen3vl_requests_total", outcome="aborted", status="499") == 1


async def test_an_answer_of_which_the_end_is_not_read_is_given_up() -> None:
    server = with_limits(write_timeout_s=0.3, header_timeout_s=0.1)
    server.state.metrics.render = lambda: b"x" * 30_000_000
    async with listen(server) as http:
        client = connect_unreading(http)
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(HANG_S):
            while buffered(http) == 0:
                await asyncio.sleep(0.01)
        await assert_no_connection(http)
        client.close()


async def test_a_large_answer_arrives_whole() -> None:
    server = Server(make_chunk("x" * 3_000_000), DONE)
    async with listen(server) as http, httpx.AsyncClient() as client:
        host_port = "{}:{}".format(*address_of(http))
        response = await client.post(f"http://{host_port}/v1/chat/completions", json=make_body())
    content = response.json()["choices"][0]["message"]["content"]
    assert content == "x" * 3_000_000 + "A cat."


async def test_a_stream_that_is_read_too_slowly_ends_with_the_requests_time() -> None:
    server = with_limits(write_timeout_s=0.3, header_timeout_s=0.1, request_timeout_s=1)
    server.engine.script = [make_chunk("x" * 1_000_000)] * 50 + [DONE]
    body = orjson.dumps(make_body(stream=True))
    async with listen(server) as http:
        client = connect_unreading(http)
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        async with asyncio.timeout(HANG_S):
            while server.sample("qwen3vl_requests_in_flight") != 0 or not server.engine.aborted:
                await asyncio.sleep(0.01)
        await assert_no_connection(http)  # what was still to be written is forgotten
        client.close()
    assert_aborted(server)
