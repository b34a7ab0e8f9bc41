"""A real server with the embedded demo that is attacked: whether it is as well as before."""

import itertools
import json
import os
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.e2e.real_server import MODEL_NAME, RealServer, wait_until
from tests.fault.files import base_mp4, box, image_part, make_png, png_chunk, video_part

_DECODER = "multimodal.video_worker"
_MAX_GROWTH = 512 * 1024**2  # bytes of all processes together; one attack may take as much
_REQUESTS = ("vllm:num_requests_running", "vllm:num_requests_waiting", "qwen3vl_requests_in_flight")
_counter = itertools.count()


@dataclass
class LiveServer:
    """A server and what it was when it had started."""

    server: RealServer

    def __post_init__(self) -> None:
        self.assert_answers(has_video=True)
        self.post(one_token("hi", guided_choice=["a"]))  # starts the process that tries grammars
        self.engine_pid = self.server.engine_process.pid
        self.num_bytes = self._num_bytes()

    @cached_property
    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.server.base_url, timeout=120)

    def post(self, body: dict[str, Any], path: str = "/v1/chat/completions") -> httpx.Response:
        return self.http.post(path, json=body)

    def ask_about(self, *parts: dict[str, Any]) -> httpx.Response:
        """A user's message of these parts, answered with one token."""
        return self.post(one_token(list(parts)))

    def assert_answers(self, *, has_video: bool = False) -> None:
        """A picture, or a clip, that was not seen before is decoded, encoded and answered."""
        part = new_video_part() if has_video else new_picture_part()
        response = self.ask_about(part, {"type": "text", "text": "What is it?"})
        assert response.status_code == 200, response.text
        assert response.json()["usage"]["completion_tokens"] == 1

    def assert_unharmed(self) -> None:
        """It runs with the same engine and decoders, holds no request and no more memory."""
        self.wait_until_idle()
        self.assert_answers()
        self.assert_answers(has_video=True)
        assert self.server.engine_process.pid == self.engine_pid
        processes = self.server.process.children(recursive=True)
        assert not [p for p in processes if p.status() == psutil.STATUS_ZOMBIE]
        assert len(self.decoders()) <= (os.cpu_count() or 1)
        num_bytes = self._num_bytes()
        assert num_bytes - self.num_bytes < _MAX_GROWTH, (self.num_bytes, num_bytes)

    def wait_until_idle(self) -> None:
        """Nothing runs or waits, in the engine and before it."""
        wait_until(lambda: all(self.server.sample(name) == 0 for name in _REQUESTS))

    @contextmanager
    def stopped_decoders(self) -> Iterator[list[psutil.Process]]:
        """All of them hang; there is one at least."""
        assert self.ask_about(new_video_part()).status_code == 200
        decoders = self.decoders()
        for decoder in decoders:
            decoder.send_signal(signal.SIGSTOP)
        try:
            yield decoders
        finally:
            for decoder in decoders:
                with suppress(psutil.NoSuchProcess):
                    decoder.send_signal(signal.SIGCONT)

    def decoders(self) -> list[psutil.Process]:
        """The processes that decode videos."""
        return [p for p in self.server.process.children() if _DECODER in p.cmdline()]

    def _num_bytes(self) -> int:
        processes = [self.server.process, *self.server.process.children(recursive=True)]
        return sum(process.memory_info().rss for process in processes)


def start_live(folder: Path, **options: Any) -> Iterator[LiveServer]:
    """For a fixture: the demo with small caches, and nothing of it left behind."""
    small = {"max_model_len": 2048, "device_bytes": 2**24, "host_bytes": 2**26}
    with RealServer("demo", folder / "log", **{**small, **options}) as server:
        yield LiveServer(server)


def one_token(content: Any, **fields: Any) -> dict[str, Any]:
    """The body of a chat request without thinking."""
    messages = [{"role": "user", "content": content}]
    body = {"model": MODEL_NAME, "messages": messages, "max_tokens": 1, "temperature": 0}
    return {**body, "reasoning_effort": "none", **fields}


def new_picture_part() -> dict[str, Any]:
    """64 x 64 pixels of one colour, in a file that no other is equal to."""
    text = png_chunk(b"tEXt", b"number\0%d" % next(_counter))
    return image_part(make_png(64, 64, (b"\0" + b"\x78\x1e\x5a" * 64) * 64, text))


def new_video_part() -> dict[str, Any]:
    """Three frames, in a file that no other is equal to."""
    return video_part(base_mp4() + box(b"free", struct.pack(">I", next(_counter))))


def assert_refused(response: httpx.Response, statuses: tuple[int, ...]) -> dict[str, Any]:
    """One of the statuses, in OpenAI's shape or Anthropic's, and a text that tells nothing inner.

    Returns: the error.
    """
    assert response.status_code in statuses, f"{response.status_code}: {response.text[:500]}"
    assert response.headers["content-type"] == "application/json"
    error: dict[str, Any] = response.json()["error"]
    if response.request.url.path.startswith("/v1/messages"):
        assert set(error) >= {"type", "message"}
    else:
        assert set(error) == {"message", "type", "param", "code"}
    text = json.dumps(error)
    assert error["message"] and len(text) < 2000
    for inner in (" at 0x", "Traceback", "site-packages", "/tmp/", "/etc/", ".py", "Error("):
        assert inner not in text
    return error
