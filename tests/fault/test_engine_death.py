"""The engine's process, or the server's, is killed; what is left of the other?"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import orjson
import pytest

from tests.e2e.real_server import RealServer, make_request, open_stream, wait_until

pytestmark = pytest.mark.alone

ENDLESS = {"max_tokens": 30_000, "ignore_eos": True}


@dataclass(frozen=True)
class Aftermath:
    """Of a killed engine: the ends of two open requests, and of the server."""

    whole: httpx.Response
    events: list[str]
    exit_status: int
    log: str


@pytest.fixture(scope="module")
def checkpoint_server(
    hybrid_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> RealServer:
    log_path = tmp_path_factory.mktemp("logs") / "engine_death"
    return RealServer(hybrid_checkpoint, log_path, max_model_len=32768)


@pytest.fixture(scope="module")
def aftermath(checkpoint_server: RealServer) -> Iterator[Aftermath]:
    with checkpoint_server as server, ThreadPoolExecutor() as threads:
        url = f"{server.base_url}/v1/chat/completions"
        body = make_request("hi", **ENDLESS)
        whole = threads.submit(httpx.post, url, json=body, timeout=60)
        with open_stream(server, "hi", **ENDLESS) as lines:
            events = [next(lines) for _ in range(10)]
            wait_until(lambda: server.sample("vllm:num_requests_running") == 2)
            server.engine_process.kill()
            events += list(lines)
        exit_status = server.wait()
        server.assert_nothing_left()
        events = [event.removeprefix("data: ") for event in events if event]
        yield Aftermath(whole.result(), events, exit_status, server.log)


def test_whole_answer_fails_when_the_engine_dies(aftermath: Aftermath):
    assert aftermath.whole.status_code == 503
    assert aftermath.whole.json()["error"]["code"] == "engine_dead"


def test_stream_ends_with_an_error_when_the_engine_dies(aftermath: Aftermath):
    *chunks, last, done = aftermath.events
    assert done == "[DONE]"
    assert orjson.loads(last)["error"]["code"] == "engine_dead"
    assert chunks and all("choices" in orjson.loads(chunk) for chunk in chunks)


def test_server_ends_for_its_supervisor_when_the_engine_dies(aftermath: Aftermath):
    assert aftermath.exit_status == 1
    assert "the engine has stopped" in aftermath.log


def test_engine_ends_when_the_server_is_killed(hybrid_checkpoint: Path, tmp_path: Path):
    with RealServer(hybrid_checkpoint, tmp_path / "log", max_model_len=256) as server:
        server.process.kill()
        server.wait()
        server.assert_nothing_left()
