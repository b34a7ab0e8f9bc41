"""Chat requests that are timed: one at a time to their first token, or many at once."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import httpx
import orjson

MODEL_NAME = "benchmark"  # what both servers call their checkpoint
_HEADERS = {"Content-Type": "application/json"}
_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class FirstToken:
    """Seconds from sending a request to its first token; what the server counted as its prompt."""

    seconds: float
    num_prompt_tokens: int


class ChatClient:
    """Sends requests to one server. Bodies are written before the clock starts.

    Args:
        base_url: `http://host:port`.
        max_connections: requests that `throughput` has under way at once.
    """

    def __init__(self, base_url: str, max_connections: int = 1) -> None:
        self._url = f"{base_url}/v1/chat/completions"
        self._max_connections = max_connections
        self._http = httpx.Client(timeout=_TIMEOUT_S, trust_env=False)

    def first_token(self, messages: Sequence[Any]) -> FirstToken:
        """Ask for one token, streamed."""
        body = streamed_body(messages)
        start = time.perf_counter()
        seconds, num_prompt_tokens = None, 0
        for event in self.events(body):
            if seconds is None and has_output(event):
                seconds = time.perf_counter() - start
            if event.get("usage"):
                num_prompt_tokens = event["usage"]["prompt_tokens"]
        if seconds is None:
            raise RuntimeError("the stream ended without a token")
        return FirstToken(seconds, num_prompt_tokens)

    def events(self, body: bytes) -> Iterator[dict[str, Any]]:
        """Send a body of `streamed_body`. Yields: the chunks as they come, {} for other lines."""
        with self._http.stream("POST", self._url, content=body, headers=_HEADERS) as response:
            _check(response)
            yield from map(_event, response.iter_lines())

    def throughput(self, conversations: Sequence[Sequence[Any]]) -> float:
        """Requests per second over all of them, for one token each, `max_connections` at a time."""
        bodies = [chat_body(messages) for messages in conversations]
        with ThreadPoolExecutor(self._max_connections) as threads:
            start = time.perf_counter()
            for _ in threads.map(self._post, bodies):
                pass
            return len(bodies) / (time.perf_counter() - start)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def _post(self, body: bytes) -> None:
        _check(self._http.post(self._url, content=body, headers=_HEADERS))


def chat_body(messages: Sequence[Any], **options: Any) -> bytes:
    """A request for one token unless the options say otherwise: greedy, no early end."""
    defaults = {"model": MODEL_NAME, "max_tokens": 1, "temperature": 0, "ignore_eos": True}
    return orjson.dumps({**defaults, "messages": messages, **options})


def streamed_body(messages: Sequence[Any], **options: Any) -> bytes:
    """The same as a stream that ends with the usage."""
    return chat_body(messages, stream=True, stream_options={"include_usage": True}, **options)


def user(*content: Any) -> dict[str, Any]:
    """A user's message; strings among the parts are text."""
    parts = [{"type": "text", "text": p} if isinstance(p, str) else p for p in content]
    return {"role": "user", "content": parts}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _check(response: httpx.Response) -> None:
    if response.status_code != 200:
        raise RuntimeError(f"HTTP {response.status_code}: {response.read()[:500]!r}")


def _event(line: str) -> dict[str, Any]:
    """A server-sent event with a JSON payload; nothing for other lines."""
    payload = line.removeprefix("data: ")
    if payload == line or payload == "[DONE]":
        return {}
    event: dict[str, Any] = orjson.loads(payload)
    if "error" in event:
        raise RuntimeError(f"error in the stream: {payload[:500]}")
    return event


def has_output(event: dict[str, Any]) -> bool:
    """Whether a token has come, even one without text of its own."""
    return any(
        choice["delta"].get("content") or choice.get("finish_reason")
        for choice in event.get("choices", ())
    )
