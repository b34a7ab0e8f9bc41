"""A chat request that is streamed by a thread of its own, with the times of its tokens."""

import threading
import time
from collections.abc import Sequence
from typing import Any, Self

import httpx

from benchmarks.client import ChatClient, has_output, streamed_body


class BackgroundStream:
    """Sent on entering the block; leaving it closes the connection, which ends the request.

    Attributes:
        start_s, times_s: of sending it, and of each token so far, on `time.perf_counter`'s clock.
        num_prompt_tokens: as the server counted them, once the answer is complete.
    """

    def __init__(self, base_url: str, messages: Sequence[Any], max_tokens: int) -> None:
        self._client = ChatClient(base_url)
        # Drawn: the most likely token of a random model may be one without text, for ever.
        # Without a seed: vLLM's CPU engine dies of one if the prompt is prefilled in chunks.
        self._body = streamed_body(messages, max_tokens=max_tokens, temperature=1)
        self._thread = threading.Thread(target=self._read)
        self._changed = threading.Condition()
        self._failure: Exception | None = None
        self._has_ended = False
        self._is_closed = False
        self.start_s = 0.0
        self.times_s: list[float] = []
        self.num_prompt_tokens = 0

    def __enter__(self) -> Self:
        self.start_s = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closed = True
        self._thread.join()
        self._client.__exit__()

    def wait_for_tokens(self, num_tokens: int) -> None:
        """Raises: RuntimeError if the request ends before."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_ended or len(self.times_s) >= num_tokens)
        if len(self.times_s) < num_tokens:
            raise RuntimeError("a stream has ended early") from self._failure

    def wait_for_end(self) -> None:
        """Raises: RuntimeError if it ends without a token."""
        self._thread.join()
        self.wait_for_tokens(1)

    def _read(self) -> None:
        try:
            for event in self._client.events(self._body):
                if self._is_closed:
                    break
                self._note(event)
        except (httpx.HTTPError, RuntimeError) as error:
            self._failure = error
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def _note(self, event: dict[str, Any]) -> None:
        with self._changed:
            if has_output(event):
                self.times_s.append(time.perf_counter())
            if event.get("usage"):
                self.num_prompt_tokens = event["usage"]["prompt_tokens"]
            self._changed.notify_all()
