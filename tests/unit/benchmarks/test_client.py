"""What counts as the first token of a stream, and what is refused."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks.background_stream import BackgroundStream
from benchmarks.client import ChatClient, user
from tests.throwaway_server import Handler, address_of, listening

ROLE = b'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n\n'
EMPTY_END = b'data: {"choices": [{"delta": {"content": ""}, "finish_reason": "length"}]}\n\n'
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 7}}\n\n'
DONE = b"data: [DONE]\n\n"


@contextmanager
def server(status: int, *events: bytes) -> Iterator[str]:
    class Events(Handler):
        def do_POST(self) -> None:
            self.read_body()
            self.answer(status, b"".join(events))

    with listening(Events) as running:
        yield address_of(running)


def test_a_token_without_text_counts() -> None:
    with server(200, ROLE, EMPTY_END, USAGE, DONE) as url, ChatClient(url) as client:
        first = client.first_token([user("hello")])
    assert first.seconds > 0
    assert first.num_prompt_tokens == 7


def test_the_role_alone_is_no_token() -> None:
    with (
        server(200, ROLE, DONE) as url,
        ChatClient(url) as client,
        pytest.raises(RuntimeError, match="without a token"),
    ):
        client.first_token([user("hello")])


def test_a_refused_request_is_an_error() -> None:
    with (
        server(400, b"too long") as url,
        ChatClient(url) as client,
        pytest.raises(RuntimeError, match="HTTP 400: b'too long'"),
    ):
        client.first_token([user("hello")])


def test_an_error_in_the_stream_is_an_error() -> None:
    with (
        server(200, b'data: {"error": {"message": "engine"}}\n\n') as url,
        ChatClient(url) as client,
        pytest.raises(RuntimeError, match="error in the stream"),
    ):
        client.first_token([user("hello")])


TOKEN = b'data: {"choices": [{"delta": {"content": "word"}}]}\n\n'


def test_each_token_of_a_background_stream_has_its_time() -> None:
    with (
        server(200, ROLE, TOKEN, TOKEN, EMPTY_END, USAGE, DONE) as url,
        BackgroundStream(url, [user("hello")], max_tokens=3) as stream,
    ):
        stream.wait_for_end()
        assert len(stream.times_s) == 3
        assert stream.start_s < stream.times_s[0] <= stream.times_s[-1]
        assert stream.num_prompt_tokens == 7


def test_waiting_for_more_tokens_than_come_is_an_error() -> None:
    with (
        server(200, ROLE, TOKEN, DONE) as url,
        BackgroundStream(url, [user("hello")], max_tokens=3) as stream,
        pytest.raises(RuntimeError, match="ended early"),
    ):
        stream.wait_for_tokens(2)
