"""`kill -9` of any process, at moments drawn at random: later requests are answered as before."""

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import orjson
import psutil
import pytest

from tests.e2e.real_cache import Reply, ask, count_in_tier, picture_part, start
from tests.e2e.real_media import text, video
from tests.e2e.real_server import RealServer, command_of, make_request, wait_until

pytestmark = pytest.mark.slow

QUESTION = text("What is it?")
_START_TIMEOUT_S = 300
_ANSWER_TIMEOUT_S = 300
_MAX_DELAY_S = 1.5  # until all that is sent at once has been answered, or nearly
# an engine may be killed five times in a row
_SEEDS: Mapping[str, Sequence[int]] = {
    "EngineCore": range(2),
    "multimodal.video_worker": range(3),
    "server.grammar.worker": range(3),
}
_KILLS = [(victim, seed) for victim, seeds in _SEEDS.items() for seed in seeds]


@dataclass(frozen=True)
class Folders:
    """Of the vision cache, which outlive a server."""

    host: Path
    disk: Path

    def start(self, log_path: Path, **variables: str) -> RealServer:
        return start(
            log_path,
            variables,
            restart_engine=True,
            host_dir=self.host,
            host_bytes=1 << 28,
            disk_dir=self.disk,
            disk_bytes=1 << 28,
            max_num_batched_tokens=256,  # so that a prefill has several steps
        )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    folder = tmp_path_factory.mktemp("kills")
    with Folders(folder / "host", folder / "disk").start(folder / "log") as server:
        yield server


@pytest.fixture(scope="module")
def expected(server: RealServer) -> dict[str, Reply]:
    return ask_all(server)


def ask_all(server: RealServer) -> dict[str, Reply]:
    """One request of each kind, always the same."""
    return {
        "text": ask(server, "hi"),
        "picture": ask(server, [picture_part(1), QUESTION]),
        "video": ask(server, [video(max_pixels=20_000), QUESTION]),
        "grammar": ask(server, "hi", response_format=answer_format("always")),
    }


def answer_format(word: str) -> dict[str, Any]:
    """A grammar that is new if the word is."""
    schema = {"type": "string", "enum": [word, "no"]}
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def new_requests(number: int) -> list[dict[str, Any]]:
    """Of each kind one: loading, prefilling and decoding take time."""
    return [
        make_request(f"{number}", stream=True, max_tokens=300, ignore_eos=True),
        make_request(f"{number} word " * 100, stream=True, max_tokens=50, ignore_eos=True),
        make_request([picture_part(1), QUESTION], max_tokens=50, ignore_eos=True),
        make_request([video(max_pixels=40_000), QUESTION], max_tokens=50),
        make_request("hi", response_format=answer_format(str(number))),
    ]


def kill(server: RealServer, name: str) -> None:
    """All processes of the server that are called so; there may be none."""
    for process in server.process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if name in command_of(process):
                process.kill()


def send(url: str, number: int, body: Mapping[str, Any]) -> None:
    """Check that the answer, or an error, comes whole. Nothing is known of another client's media.

    Args:
        number: of the client.
    """
    key = {"Authorization": f"Bearer {number}"}
    client = httpx.Client(base_url=url, timeout=_ANSWER_TIMEOUT_S, headers=key)
    with client, client.stream("POST", "/v1/chat/completions", json=body) as answer:
        data = answer.read()
    if answer.status_code != 200 or not body.get("stream"):
        assert_whole(answer.status_code, orjson.loads(data))
        return
    events = [line.removeprefix("data: ") for line in data.decode().splitlines() if line]
    assert events[-1] == "[DONE]"
    last = orjson.loads(events[-2])
    assert "error" in last or last["choices"][0]["finish_reason"] == "length"


def assert_whole(status: int, body: Mapping[str, Any]) -> None:
    if status == 200:
        assert body["choices"][0]["finish_reason"]
    else:
        # the decoder's and the grammar worker's end look like what a file or grammar has done
        assert status in (400, 422, 503), body
        assert body["error"]["code"]


def in_flight(
    server: RealServer, rng: random.Random, threads: ThreadPoolExecutor
) -> list[Future[None]]:
    """Requests that are under way, for a time drawn at random."""
    number = rng.randrange(10**6)
    bodies = new_requests(number)
    rng.shuffle(bodies)
    sent = [threads.submit(send, server.base_url, number, body) for body in bodies]
    time.sleep(rng.uniform(0, _MAX_DELAY_S))
    return sent


def wait_for_another(server: RealServer, engine: psutil.Process) -> None:
    """Until another engine process answers."""

    def is_ready() -> bool:
        return not engine.is_running() and server.http.get("/ready").status_code == 200

    wait_until(is_ready, _START_TIMEOUT_S)


@pytest.fixture
def temporary() -> Iterator[Path]:
    """In the place of /tmp; its name is short, as those of sockets in it must be."""
    with TemporaryDirectory() as folder:
        yield Path(folder)


def test_a_killed_server_leaves_a_cache_that_the_next_one_uses(
    temporary: Path, tmp_path: Path
) -> None:
    """This comes first: there is one server at a time."""
    rng, folders = random.Random("server"), Folders(tmp_path / "host", tmp_path / "disk")
    killed_server = folders.start(tmp_path / "killed", TMPDIR=str(temporary))
    with killed_server as killed, ThreadPoolExecutor(8) as threads:
        expected = ask_all(killed)
        sent = in_flight(killed, rng, threads)
        killed.kill()
        for future in sent:
            with suppress(httpx.HTTPError, AssertionError):  # the connection was cut
                future.result()
        killed.assert_nothing_left()
    left = set(temporary.glob("qwen3vl-serve-*"))
    assert left
    with folders.start(tmp_path / "next", TMPDIR=str(temporary)) as server:
        assert not any(path.exists() for path in left)
        assert_answers(server, expected)
        assert all(count_in_tier(server, tier, "damaged") == 0 for tier in ("host", "disk"))


@pytest.mark.parametrize(("victim", "seed"), _KILLS)
def test_a_kill_under_load_loses_no_later_request(
    server: RealServer, expected: dict[str, Reply], victim: str, seed: int
) -> None:
    rng, engine = random.Random(f"{victim}/{seed}"), server.engine_process
    with ThreadPoolExecutor(8) as threads:
        sent = in_flight(server, rng, threads)
        kill(server, victim)
        for future in sent:
            future.result()
    if victim == "EngineCore":
        wait_for_another(server, engine)
    assert_answers(server, expected)


@pytest.mark.parametrize("victim", _SEEDS)
def test_a_kill_between_requests_loses_none(
    server: RealServer, expected: dict[str, Reply], victim: str
) -> None:
    """Whatever is killed is needed by the next request."""
    engine = server.engine_process
    kill(server, victim)
    if victim == "EngineCore":
        wait_for_another(server, engine)
    ask(server, [video(max_pixels=30_000), QUESTION])
    ask(server, "hi", response_format=answer_format(f"after {victim}"))
    assert_answers(server, expected)


def assert_answers(server: RealServer, expected: Mapping[str, Reply]) -> None:
    for name, reply in ask_all(server).items():
        reply.assert_same_as(expected[name])
