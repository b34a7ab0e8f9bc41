"""nginx as docker/compose.cluster.yaml has it, before two replicas that are made up."""

import contextlib
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.e2e.real_server import wait_until
from tests.e2e.scaling import free_port
from tests.fake_backend import assert_error
from tests.throwaway_server import Handler

CONFIG = Path(__file__).parents[2] / "docker" / "nginx" / "nginx.conf"
HANG_S = 60
FULL = b'{"error": {"code": "overloaded"}}'

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="no nginx")


@dataclass
class Replica:
    """Attributes:
    is_full: it answers 503, as the server does.
    may_go_on: a stream waits for it after its first event.
    """

    name: str
    is_full: bool = False
    may_go_on: threading.Event = field(default_factory=threading.Event)
    server: ThreadingHTTPServer = field(init=False)
    seen: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))

    def listen(self) -> None:
        threading.Thread(target=self.server.serve_forever).start()

    def stop(self) -> None:
        self.may_go_on.set()
        self.server.shutdown()
        self.server.server_close()


def _handler_of(replica: Replica) -> type[Handler]:
    class Answers(Handler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.read_body()
            if replica.is_full:
                self.answer(503, FULL)
                return
            replica.seen.append({name.lower(): value for name, value in self.headers.items()})
            if self.path == "/stream":
                self._stream()
            else:
                self.answer(200, replica.name.encode())

        def _stream(self) -> None:
            self.send_response(200)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"5\r\nfirst\r\n")
            self.wfile.flush()
            assert replica.may_go_on.wait(HANG_S)
            self.wfile.write(b"4\r\nlast\r\n0\r\n\r\n")

    return Answers


@pytest.fixture
def replicas() -> Iterator[list[Replica]]:
    replicas = [Replica("one"), Replica("two")]
    for replica in replicas:
        replica.listen()
    yield replicas
    for replica in replicas:
        with contextlib.suppress(OSError):
            replica.stop()


@pytest.fixture
def router(replicas: list[Replica], tmp_path: Path) -> Iterator[httpx.Client]:
    """Only addresses and folders are other ones."""
    port = free_port()
    text = CONFIG.read_text().replace("listen 8000;", f"listen 127.0.0.1:{port};")
    text = text.replace("/tmp/", f"{tmp_path}/").replace("/dev/stderr", "stderr")
    for address, replica in zip(_addresses(), replicas, strict=True):
        text = text.replace(address, f"127.0.0.1:{replica.server.server_port}")
    (tmp_path / "nginx.conf").write_text(text)
    command = ["nginx", "-c", str(tmp_path / "nginx.conf"), "-e", "stderr"]
    process = subprocess.Popen(command)
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=HANG_S)
    try:
        wait_until(lambda: _is_listening(client))
        yield client
    finally:
        process.terminate()
        process.wait(HANG_S)


def _addresses() -> list[str]:
    return re.findall(r"server ([\d.]+:8000)", CONFIG.read_text())


def _is_listening(client: httpx.Client) -> bool:
    with contextlib.suppress(httpx.ConnectError):
        client.request("OPTIONS", "/")
        return True
    return False


def ask(router: httpx.Client, conversation: str, **headers: str) -> httpx.Response:
    return router.post("/v1/responses", headers={"x-session-id": conversation, **headers})


@pytest.fixture
def conversation_of(router: httpx.Client) -> Callable[[Replica], str]:
    def find(replica: Replica) -> str:
        names = (str(number) for number in range(100))
        return next(name for name in names if ask(router, name).text == replica.name)

    return find


def test_a_conversation_stays_on_its_replica(router: httpx.Client, replicas: list[Replica]) -> None:
    names = [str(number) for number in range(40)]
    first = [ask(router, name).text for name in names]
    assert set(first) == {replica.name for replica in replicas}
    assert [ask(router, name).text for name in names] == first


def test_headers_of_clients_reach_it(router: httpx.Client, replicas: list[Replica]) -> None:
    ask(router, "a", authorization="Bearer its key", host="models.example")
    (seen,) = [seen for replica in replicas for seen in replica.seen]
    assert (seen["authorization"], seen["host"]) == ("Bearer its key", "models.example")


def test_streams_are_passed_on_as_they_come(router: httpx.Client, replicas: list[Replica]) -> None:
    with router.stream("POST", "/stream") as response:
        pieces = response.iter_raw()
        assert next(pieces) == b"first"
        for replica in replicas:
            replica.may_go_on.set()
        assert b"".join(pieces) == b"last"


@pytest.mark.parametrize("is_gone", [False, True], ids=["full", "gone"])
def test_the_other_one_answers_for_one_that_cannot(
    is_gone: bool,
    router: httpx.Client,
    replicas: list[Replica],
    conversation_of: Callable[[Replica], str],
) -> None:
    conversation = conversation_of(replicas[0])
    replicas[0].is_full = True
    if is_gone:
        replicas[0].stop()
    assert [ask(router, conversation).text for _ in range(3)] == ["two"] * 3


def test_if_all_are_full_the_client_is_told_so(
    router: httpx.Client, replicas: list[Replica]
) -> None:
    for replica in replicas:
        replica.is_full = True
    answers = [ask(router, "a") for _ in range(3)]  # of a replica, then of nginx
    assert [answer.status_code for answer in answers] == [503] * 3
    assert answers[0].content == FULL
    assert answers[2].headers["retry-after"] == "5"
    assert_error(answers[2], 503, "overloaded")
    replicas[1].is_full = False
    wait_until(lambda: ask(router, "a").text == "two")
