"""Malformed images and videos on a real server: each costs its own request, and that one an error.

The decoding processes are stopped, killed and starved as well.
"""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import cv2
import httpx
import numpy as np
import psutil
import pytest

from tests.e2e.real_server import wait_until
from tests.fault.files import BAD_FILES, BadFile, video_part
from tests.fault.live import (
    LiveServer,
    assert_refused,
    new_video_part,
    one_token,
    start_live,
)

pytestmark = pytest.mark.slow

_TIMEOUT_S = 8
_PROBE_CHARACTERS = 24


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    options = {
        "num_workers": 1,  # so that there is one decoder, which all videos share
        "video_timeout_s": _TIMEOUT_S,
        "max_video_worker_bytes": 512 * 1024**2,
    }
    yield from start_live(tmp_path_factory.mktemp("files"), **options)


def test_there_are_as_many_as_promised() -> None:
    assert len({file.name for file in BAD_FILES}) == len(BAD_FILES) >= 60


@pytest.mark.parametrize("file", BAD_FILES, ids=lambda file: file.name)
def test_a_malformed_file_costs_its_own_request(live: LiveServer, file: BadFile) -> None:
    part = file.make()
    response = live.ask_about(part, {"type": "text", "text": "What is it?"})
    if response.status_code != 200 or 200 not in file.statuses:
        error = assert_refused(response, file.statuses)
        assert error["param"].startswith("messages[0].content[0]")
        assert error["code"] not in (None, "internal_error")
        assert not any(payload in response.text for payload in payloads(part))
    live.assert_answers(has_video="video_url" in part)


def payloads(part: dict[str, object]) -> list[str]:
    """The beginnings of the base64 of a part."""
    urls = [
        url
        for value in part.values()
        for url in (value.values() if isinstance(value, dict) else value)
        if isinstance(url, str) and url.startswith("data:")
    ]
    return [data[:_PROBE_CHARACTERS] for url in urls if (data := url.partition(",")[2])]


def test_many_of_them_at_once(live: LiveServer) -> None:
    """Side by side, a bad file disturbs no other, nor does its end."""
    files = BAD_FILES[::3]
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda file: live.ask_about(file.make()), files))
    for file, response in zip(files, responses, strict=True):
        assert response.status_code in file.statuses, (file.name, response.text)
    live.assert_unharmed()


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGKILL"])
def test_a_decoder_that_crashes_costs_one_request(live: LiveServer, name: str) -> None:
    with ThreadPoolExecutor(1) as pool, live.stopped_decoders() as decoders:
        asked = pool.submit(live.ask_about, new_video_part())
        wait_until(lambda: live.server.sample("qwen3vl_requests_in_flight") == 1)
        live.assert_answers()  # others go on, and by then a decoder has the video
        for decoder in decoders:
            decoder.send_signal(signal.Signals[name])
            with suppress(psutil.NoSuchProcess):  # SIGKILL does not wait for it to go on
                decoder.send_signal(signal.SIGCONT)
        error = assert_refused(asked.result(), (422,))
    assert error["code"] == "corrupt_video"
    live.assert_unharmed()


def test_a_decoder_that_hangs_costs_one_request(live: LiveServer) -> None:
    with ThreadPoolExecutor(1) as pool, live.stopped_decoders():
        asked = pool.submit(live.ask_about, new_video_part())
        live.assert_answers()
        error = assert_refused(asked.result(), (413,))
    assert error["code"] == "video_timeout"
    live.assert_unharmed()


def test_a_video_that_needs_too_much_memory_costs_one_request(
    live: LiveServer, tmp_path: Path
) -> None:
    error = assert_refused(live.ask_about(video_part(make_large_video(tmp_path))), (422,))
    assert error["code"] == "corrupt_video"
    live.assert_unharmed()


def make_large_video(folder: Path) -> bytes:
    """Two frames of 33 million pixels."""
    path = folder / "large.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 2.0, (7680, 4320))
    for _ in range(2):
        writer.write(np.zeros((4320, 7680, 3), np.uint8))
    writer.release()
    return path.read_bytes()


def test_a_client_that_leaves_ends_its_decoder(live: LiveServer) -> None:
    with live.stopped_decoders() as decoders:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{live.server.base_url}/v1/chat/completions",
                json=one_token([new_video_part()]),
                timeout=1,
            )
        wait_until(lambda: live.server.sample("qwen3vl_requests_in_flight") == 0)
        assert len([d for d in decoders if d.is_running()]) == len(decoders) - 1
    live.assert_unharmed()


def test_the_server_is_as_it_was(live: LiveServer) -> None:
    live.assert_unharmed()
