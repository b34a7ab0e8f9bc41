"""SIGTERM while an answer is streamed, with time to finish it and without, and during the start."""

import random
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
import psutil
import pytest

from tests.e2e.real_server import RealServer, command_of, open_stream, wait_until

pytestmark = pytest.mark.alone


@dataclass(frozen=True)
class Ending:
    """What a server and its last stream left behind. `cut`: the connection was closed half-way."""

    events: list[str]
    cut: bool
    exit_status: int
    log: str


def end_during_stream(server: RealServer, max_tokens: int) -> Ending:
    events: list[str] = []
    cut = False
    with open_stream(server, "hi", max_tokens=max_tokens, ignore_eos=True) as lines:
        events += [next(lines) for _ in range(10)]
        server.terminate()
        try:
            events += list(lines)
        except httpx.RemoteProtocolError:
            cut = True
    exit_status = server.wait()
    server.assert_nothing_left()
    data = [event.removeprefix("data: ") for event in events if event]
    return Ending(data, cut, exit_status, server.log)


@pytest.fixture(scope="module")
def in_time(logs: Path) -> Ending:
    """The embedded demo, ended during a stream of 400 tokens."""
    with RealServer("demo", logs / "in_time", max_model_len=1024) as server:
        return end_during_stream(server, max_tokens=400)


@pytest.fixture(scope="module")
def too_late(hybrid_checkpoint: Path, logs: Path) -> Ending:
    """A second is given to a stream that would take minutes."""
    options: dict[str, Any] = {"max_model_len": 32768, "shutdown_timeout_s": 1}
    with RealServer(hybrid_checkpoint, logs / "too_late", **options) as server:
        return end_during_stream(server, max_tokens=30_000)


def test_stream_is_finished_after_sigterm(in_time: Ending):
    assert not in_time.cut
    *chunks, last, done = in_time.events
    assert done == "[DONE]"
    assert orjson.loads(last)["choices"][0]["finish_reason"] == "length"
    assert len(chunks) > 100


def test_exit_status_after_sigterm_is_0(in_time: Ending):
    assert in_time.exit_status == 0


def test_orderly_end_is_logged_without_errors(in_time: Ending):
    assert "Finished server process" in in_time.log
    assert " trace=" not in in_time.log


def test_server_does_not_wait_longer_than_its_shutdown_timeout(too_late: Ending):
    assert "Finished server process" in too_late.log
    assert len(too_late.events) < 15_000


def test_stream_that_cannot_be_finished_ends_with_an_error_event(too_late: Ending):
    assert not too_late.cut
    *_, last, done = too_late.events
    assert done == "[DONE]"
    assert orjson.loads(last)["error"]["type"] == "server_error"


def test_a_second_sigterm_changes_nothing(hybrid_checkpoint: Path, logs: Path) -> None:
    with RealServer(hybrid_checkpoint, logs / "twice", max_model_len=2048) as server:
        with open_stream(server, "hi", max_tokens=500, ignore_eos=True) as lines:
            events = [next(lines) for _ in range(10)]
            server.terminate()
            server.terminate()
            events += [line for line in lines if line]
        assert events[-1] == "data: [DONE]"
        assert orjson.loads(events[-2].removeprefix("data: "))["choices"]
        assert server.wait() == 0
        server.assert_nothing_left()


@pytest.mark.parametrize("num_signals", [1, 2])
def test_sigint_ends_the_server(hybrid_checkpoint: Path, logs: Path, num_signals: int) -> None:
    """The second one cuts what is under way."""
    path = logs / f"interrupted-{num_signals}"
    with RealServer(hybrid_checkpoint, path, max_model_len=2048, shutdown_timeout_s=5) as server:
        with open_stream(server, "hi", max_tokens=2000, ignore_eos=True) as lines:
            next(lines)
            for _ in range(num_signals):
                server.terminate(signal.SIGINT)
                time.sleep(0.5)
        assert server.wait() == 130
        server.assert_nothing_left()


class LoadingServer(RealServer):
    """As soon as it has started the engine's process."""

    def _wait_until_ready(self) -> None:
        wait_until(lambda: any(map(_is_engine, self.process.children())), timeout_s=300)


def _is_engine(process: psutil.Process) -> bool:
    command = command_of(process)
    return "EngineCore" in command or "multiprocessing.spawn" in command


_LAYOUTS: Mapping[str, Mapping[str, Any]] = {
    "forked": {},
    "spawned": {"tensor_parallel_size": 2},
    "shared": {"api_workers": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("layout", _LAYOUTS)
def test_a_signal_during_the_start_ends_it(
    hybrid_checkpoint: Path, logs: Path, layout: str, seed: int
) -> None:
    rng, path = random.Random(f"{layout}/{seed}"), logs / f"loading-{layout}-{seed}"
    with LoadingServer(hybrid_checkpoint, path, max_model_len=256, **_LAYOUTS[layout]) as server:
        time.sleep(rng.uniform(0, 0.5))
        number = rng.choice((signal.SIGTERM, signal.SIGINT))
        server.terminate(number)
        assert server.wait() == (0 if number == signal.SIGTERM else 130)
        server.assert_nothing_left()
    assert "init engine" not in server.log  # vLLM's words for its end
    assert "Traceback" not in server.log
