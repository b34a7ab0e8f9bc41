"""SIGTERM while an answer is streamed: with time to finish it, and without."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.e2e.real_server import RealServer, open_stream


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
