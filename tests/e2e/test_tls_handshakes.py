"""Handshakes of TLS have the time and the places of connections, over sockets and uvloop."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import uvicorn
import uvloop

from server.access.tls import load_certificate
from server.open_files import raise_file_limit
from server.settings import Settings
from server.tls_protocol import TlsProtocols
from tests.certificates import write_certificate
from tests.e2e.real_server import wait_until
from tests.fake_backend import Server

pytestmark = pytest.mark.alone

HANG_S = 45  # less than the time that the event loop itself gives a handshake
LESS_THAN_THE_LOOPS_OWN_S = 25  # 30
CLIENT_HELLO = bytes.fromhex("160301020001") + b"\x00" * 20  # the beginning of one
NUM_OPEN = 1000
MAX_BYTES_EACH = 300_000


class TlsServer:
    """The application on a free port of the loopback, in a thread with an event loop of its own."""

    def __init__(self, folder: Path, **limits: Any) -> None:
        certfile, keyfile = write_certificate(folder)
        files = {"ssl_certfile": certfile, "ssl_keyfile": keyfile}
        settings = Settings(server={**limits, **files})
        context = load_certificate(settings.server)
        assert context is not None
        config = uvicorn.Config(
            Server(settings=settings).app,
            port=0,
            log_level="critical",
            lifespan="off",
            http=TlsProtocols(settings.server, context),
            ws="none",
        )
        self.uvicorn = uvicorn.Server(config)
        self._trust = ssl.create_default_context(cafile=str(certfile))

    @property
    def address(self) -> tuple[str, int]:
        address: tuple[str, int] = self.uvicorn.servers[0].sockets[0].getsockname()
        return address

    def connect(self, sent: bytes = b"") -> socket.socket:
        """A connection whose handshake does not begin, or not end."""
        client = socket.create_connection(self.address, timeout=HANG_S)
        client.sendall(sent)
        return client

    def open_client(self) -> httpx.Client:
        host, port = self.address
        return httpx.Client(base_url=f"https://{host}:{port}", verify=self._trust, timeout=HANG_S)


@contextlib.contextmanager
def listen(folder: Path, **limits: Any) -> Iterator[TlsServer]:
    server = TlsServer(folder, **limits)
    thread = threading.Thread(target=lambda: uvloop.run(server.uvicorn.serve()))
    thread.start()
    try:
        wait_until(lambda: server.uvicorn.started)
        yield server
    finally:
        server.uvicorn.should_exit = server.uvicorn.force_exit = True
        thread.join(HANG_S)


def assert_closed(client: socket.socket) -> None:
    with contextlib.suppress(ConnectionError):
        while client.recv(65536):  # an alert may come first
            pass
    client.close()


@pytest.mark.parametrize("sent", [b"", CLIENT_HELLO], ids=["nothing", "half a greeting"])
def test_a_handshake_without_an_end_is_closed(sent: bytes, tmp_path: Path) -> None:
    with listen(tmp_path, header_timeout_s=0.2) as server:
        assert_closed(server.connect(sent))
        with server.open_client() as client:
            assert client.get("/version").status_code == 200


def test_a_connection_without_a_request_is_closed_behind_its_handshake(tmp_path: Path) -> None:
    with listen(tmp_path, header_timeout_s=2) as server:
        client = server._trust.wrap_socket(server.connect(), server_hostname="localhost")
        assert_closed(client)


def test_an_idle_client_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """It does not read, and so does not answer the end of TLS."""
    with listen(tmp_path) as server:
        client = server._trust.wrap_socket(server.connect(), server_hostname="localhost")
        client.sendall(b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 200"
        server.uvicorn.should_exit = True
        connections = server.uvicorn.server_state.connections
        wait_until(lambda: not connections, LESS_THAN_THE_LOOPS_OWN_S)
        client.close()


def test_handshakes_count_as_connections(tmp_path: Path) -> None:
    with listen(tmp_path, max_connections=2, header_timeout_s=600) as server:
        first, second = server.connect(), server.connect(CLIENT_HELLO)
        assert_closed(server.connect())
        first.close()
        with server.open_client() as client:
            wait_until(lambda: is_answered(client))
            assert_closed(server.connect())
        second.close()


def test_a_thousand_handshakes_cost_little_memory_and_keep_nobody_out(tmp_path: Path) -> None:
    raise_file_limit(2 * NUM_OPEN)
    with listen(tmp_path, header_timeout_s=600) as server, server.open_client() as client:
        assert is_answered(client)
        process = psutil.Process()
        before = process.memory_info().rss
        clients = [server.connect(CLIENT_HELLO) for _ in range(NUM_OPEN)]
        for _ in range(20):
            assert client.get("/version").status_code == 200
        wait_until(lambda: len(server.uvicorn.config.http._connections) > NUM_OPEN)
        assert process.memory_info().rss - before < NUM_OPEN * MAX_BYTES_EACH
        for each in clients:
            each.close()


def is_answered(client: httpx.Client) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return client.get("/version").status_code == 200
    return False
