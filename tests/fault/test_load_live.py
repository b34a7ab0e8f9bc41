"""More than the server can do, on the real one: connections, uploads, readers, a flood, time."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from server.open_files import raise_file_limit
from tests.e2e.real_server import RealServer, make_request, wait_until

pytestmark = [pytest.mark.alone, pytest.mark.slow]

MIB = 1024**2
NUM_IDLE = 1000
NUM_UPLOADS = 200
TOTAL_BODY_BYTES = 96 * MIB
ENDLESS = {"max_tokens": 30_000, "ignore_eos": True}
URL = "/v1/chat/completions"


@pytest.fixture(scope="module")
def server(
    hybrid_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealServer]:
    log_path = tmp_path_factory.mktemp("logs") / "load"
    with RealServer(
        hybrid_checkpoint,
        log_path,
        max_model_len=32768,
        max_num_seqs=2,
        max_connections=NUM_IDLE + NUM_UPLOADS + 100,
        header_timeout_s=15,
        body_timeout_s=20,
        write_timeout_s=3,
        max_total_body_bytes=TOTAL_BODY_BYTES,
    ) as server:
        server.ask("hi")
        yield server


@contextmanager
def connections(
    server: RealServer, number: int, sent: bytes = b""
) -> Iterator[list[socket.socket]]:
    url = httpx.URL(server.base_url)
    with ExitStack() as stack:
        opened = []
        for _ in range(number):
            opened.append(socket.create_connection((url.host, url.port), timeout=60))
            stack.callback(opened[-1].close)
            opened[-1].sendall(sent)
        yield opened


def head_of(num_bytes: int) -> bytes:
    return (
        f"POST {URL} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {num_bytes}\r\n\r\n"
    ).encode()


def ask(server: RealServer, key: str = "", **fields: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return server.http.post(URL, json=make_request("hi", **fields), headers=headers)


def resident_bytes(server: RealServer) -> int:
    return int(server.process.memory_info().rss)


def assert_idle(server: RealServer) -> None:
    wait_until(lambda: server.sample("qwen3vl_requests_in_flight") == 0, 60)
    wait_until(lambda: server.sample("vllm:num_requests_running") == 0, 60)


def test_idle_connections_and_slow_uploads_do_no_harm(server: RealServer) -> None:
    raise_file_limit(NUM_IDLE + NUM_UPLOADS)
    before = resident_bytes(server)
    part = b'{"model": "' + b"x" * MIB
    with (
        connections(server, NUM_IDLE) as idle,
        connections(server, NUM_UPLOADS, head_of(60 * MIB)) as uploads,
    ):
        wait_until(lambda: server.sample("qwen3vl_requests_in_flight") == NUM_UPLOADS, 60)
        for key in ("", "another"):
            assert ask(server, key, max_tokens=2).status_code == 200
        for upload in uploads:
            upload.sendall(part)
        wait_until(lambda: server.sample("qwen3vl_requests_in_flight") < NUM_UPLOADS, 60)
        assert ask(server, "another", max_tokens=2).status_code == 200
        refused = server.sample("qwen3vl_requests_total", status="503")
        held = resident_bytes(server) - before
        assert 0 < refused < NUM_UPLOADS
        assert held < 2 * TOTAL_BODY_BYTES + 100 * MIB, f"{held / MIB:.0f} MiB"
        print(f"{refused:.0f} uploads refused; {held / MIB:.0f} MiB more than before")
        for connection in idle:  # given up by the server
            assert connection.recv(1) == b""
    assert_idle(server)


def test_streams_that_nobody_reads_do_no_harm(server: RealServer) -> None:
    before = server.sample("qwen3vl_requests_total", outcome="aborted")
    body = orjson.dumps(make_request("hi", stream=True, **ENDLESS))
    url = httpx.URL(server.base_url)
    with ExitStack() as stack:
        for _ in range(2):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((url.host, url.port))
            client.sendall(head_of(len(body)) + body)
        wait_until(lambda: server.sample("vllm:num_requests_running") == 2)
        assert ask(server, max_tokens=2).status_code == 200  # both places are free again
        wait_until(lambda: server.sample("qwen3vl_requests_total", outcome="aborted") > before)
    assert_idle(server)


def test_a_flood_does_not_keep_another_client_waiting(server: RealServer) -> None:
    num_done = 0

    def flood() -> int:
        nonlocal num_done
        status = ask(server, "flood", max_tokens=200, ignore_eos=True).status_code
        num_done += 1
        return status

    with ThreadPoolExecutor(40) as threads:  # fewer than `server.http` has connections
        flooding = [threads.submit(flood) for _ in range(40)]
        wait_until(lambda: server.sample("vllm:num_requests_waiting") > 20)
        done_before = num_done
        assert ask(server, "light", max_tokens=2).status_code == 200
        done_meanwhile = num_done - done_before
        assert {task.result() for task in flooding} == {200}
    assert done_meanwhile < 12


def test_a_request_ends_with_its_time(server: RealServer) -> None:
    headers = {"x-request-timeout": "1"}
    body = make_request("hi", **ENDLESS)
    response = server.http.post(URL, json=body, headers=headers)
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "request_timeout"
    assert_idle(server)


def test_a_stream_ends_with_its_time(server: RealServer) -> None:
    body = make_request("hi", stream=True, **ENDLESS)
    with server.http.stream("POST", URL, json=body, headers={"x-request-timeout": "3"}) as response:
        assert response.status_code == 200
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert len(events) > 3
    assert events[-1] == "[DONE]"
    assert orjson.loads(events[-2])["error"]["code"] == "request_timeout"
    assert_idle(server)
