"""Clients that go away at every stage of a request: the real server keeps nothing of it."""

import asyncio
import json
import random
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.real_server import open_stream, wait_until
from tests.fake_backend import Server, image_part, make_body
from tests.fault.live import LiveServer, new_picture_part, new_video_part, one_token, start_live

pytestmark = [pytest.mark.alone, pytest.mark.slow]

_HANG_S = 60
_ENDLESS = {"max_tokens": 1800, "ignore_eos": True}  # about as much as the context holds
_LONG_TEXT = "word " * 1500
_NUM_SEQUENCES = 2
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    options = {"max_num_seqs": _NUM_SEQUENCES, "max_num_batched_tokens": 16}
    yield from start_live(tmp_path_factory.mktemp("disconnects"), **options)


class Connection:
    """A client that sends and reads as much as it likes."""

    def __init__(self, live: LiveServer) -> None:
        address = urlsplit(live.server.base_url)
        place = (str(address.hostname), int(address.port or 0))
        self._socket = socket.create_connection(place, timeout=_HANG_S)
        self.received = b""

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def ask(self, content: Any, **fields: Any) -> None:
        self.send(request_bytes(content, **fields))

    def read_until(self, is_enough: Callable[[bytes], bool], timeout_s: float = _HANG_S) -> None:
        self._socket.settimeout(timeout_s)
        while not is_enough(self.received):
            data = self._socket.recv(4096)
            assert data, self.received[-500:]
            self.received += data

    def leave(self, how: str) -> None:
        if how == "resets":
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        if how == "shuts down":
            self._socket.shutdown(socket.SHUT_WR)
            while self._socket.recv(65536):  # until the server closes as well
                pass
        self._socket.close()


def request_bytes(content: Any, **fields: Any) -> bytes:
    body = json.dumps(one_token(content, **fields)).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def count_events(received: bytes) -> int:
    return received.count(b"data: ")


# ---- stages


def in_headers(live: LiveServer, client: Connection) -> None:
    client.send(request_bytes("hi")[:40])


def before_the_body(live: LiveServer, client: Connection) -> None:
    data = request_bytes("hi")
    client.send(data[: data.index(b"\r\n\r\n") + 4])
    wait_until(lambda: live.server.sample("qwen3vl_requests_in_flight") == 1)


def in_the_body(live: LiveServer, client: Connection) -> None:
    data = request_bytes([new_picture_part()])
    client.send(data[: len(data) // 2])
    wait_until(lambda: live.server.sample("qwen3vl_requests_in_flight") == 1)


def while_media_are_decoded(live: LiveServer, client: Connection) -> None:
    client.ask([new_video_part()])
    wait_until(lambda: live.server.sample("qwen3vl_requests_in_flight") == 1)


def in_the_queue(live: LiveServer, client: Connection) -> None:
    client.ask([new_picture_part(), {"type": "text", "text": "hi"}])
    wait_until(lambda: live.server.sample("vllm:num_requests_waiting") == 1)


def in_prefill(live: LiveServer, client: Connection) -> None:
    """Or a little later, on a machine that is quick."""
    client.ask([new_picture_part(), {"type": "text", "text": _LONG_TEXT}], stream=True, **_ENDLESS)
    wait_until(lambda: live.server.sample("vllm:num_requests_running") == 1)


def before_a_whole_answer(live: LiveServer, client: Connection) -> None:
    client.ask("hi", **_ENDLESS)
    wait_until(lambda: live.server.sample("vllm:num_requests_running") == 1)


def at_the_first_token(live: LiveServer, client: Connection) -> None:
    client.ask([new_picture_part()], stream=True, **_ENDLESS)
    client.read_until(lambda received: count_events(received) >= 1)


def in_mid_stream(live: LiveServer, client: Connection) -> None:
    client.ask("hi", stream=True, n=2, **_ENDLESS)
    client.read_until(lambda received: count_events(received) >= 40)


def at_the_last_event(live: LiveServer, client: Connection) -> None:
    client.ask("hi", stream=True, max_tokens=4, ignore_eos=True)
    client.read_until(lambda received: b'"finish_reason":"length"' in received)


def at_the_last_byte(live: LiveServer, client: Connection) -> None:
    client.ask("hi", max_tokens=4)
    client.read_until(lambda received: b"\r\n\r\n" in received)


def between_requests(live: LiveServer, client: Connection) -> None:
    client.ask("hi")
    client.read_until(lambda received: b'"usage"' in received)
    client.send(b"POST /v1/chat")


@contextmanager
def full_engine(live: LiveServer) -> Iterator[None]:
    """It has as many sequences as it takes."""
    with (
        open_stream(live.server, "hi", **_ENDLESS) as first,
        open_stream(live.server, "What?", **_ENDLESS) as second,
    ):
        next(first), next(second)
        yield


STAGES = (
    in_headers,
    before_the_body,
    in_the_body,
    while_media_are_decoded,
    in_the_queue,
    in_prefill,
    before_a_whole_answer,
    at_the_first_token,
    in_mid_stream,
    at_the_last_event,
    at_the_last_byte,
    between_requests,
)


@pytest.mark.parametrize("how", ["closes", "resets", "shuts down"])
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
def test_client_that_goes_away_leaves_nothing_behind(
    live: LiveServer, stage: Callable[[LiveServer, Connection], None], how: str
) -> None:
    around: Any = nullcontext()
    if stage is in_the_queue:
        around = full_engine(live)
    elif stage is while_media_are_decoded:
        around = live.stopped_decoders()
    client = Connection(live)
    with around:
        stage(live, client)
        client.leave(how)
        if stage is in_the_queue:
            wait_until(lambda: live.server.sample("vllm:num_requests_waiting") == 0)
    live.wait_until_idle()
    live.assert_answers()
    assert live.server.engine_process.pid == live.engine_pid


def test_a_storm_of_clients_that_go_away_leaves_nothing_behind(live: LiveServer) -> None:
    def come_and_go(seed: int) -> None:
        rng = random.Random(seed)
        part = rng.choice([new_picture_part, new_video_part])()
        data = request_bytes([part], stream=rng.random() < 0.7, **_ENDLESS)
        client = Connection(live)
        client.send(data[: rng.choice([50, 300, len(data) - 1, len(data), len(data)])])
        if rng.random() < 0.5:
            with suppress(TimeoutError):
                client.read_until(lambda received: count_events(received) >= 3, rng.random())
        client.leave(rng.choice(["closes", "resets"]))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(come_and_go, range(120)))
    live.assert_unharmed()


async def test_client_that_goes_away_ends_the_fetching_of_its_media() -> None:
    """No server here has an address that is fetched from, so this one has a fetcher that waits."""
    server, is_fetching, is_over = Server(), asyncio.Event(), asyncio.Event()

    async def fetch(url: str, **_: object) -> bytes:
        is_fetching.set()
        try:
            await asyncio.Event().wait()
        finally:
            is_over.set()
        return b""

    server.fetcher.fetch = fetch  # type: ignore[assignment]
    left = asyncio.Event()
    body = json.dumps(make_body([image_part("https://example.org/a.png")])).encode()
    messages = [{"type": "http.request", "body": body}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        raise AssertionError("nobody is left to answer")

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
    asked = asyncio.create_task(server.app({**scope, "query_string": b""}, receive, send))
    async with asyncio.timeout(_HANG_S):
        await is_fetching.wait()
        left.set()
        await asked
    assert is_over.is_set() and server.engine.requests == []
    assert server.sample("qwen3vl_requests_in_flight") == 0


def test_the_server_is_as_it_was(live: LiveServer) -> None:
    live.assert_unharmed()
    assert "Traceback" not in live.server.log
