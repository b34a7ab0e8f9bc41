"""The parts of `qwen3vl-serve chat`; tests/e2e/test_real_chat.py has the whole, on a terminal."""

import io
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from server.commands.chat import describe_usage
from server.commands.chat_client import ChatClient, ChatError, read_events
from server.commands.chat_conversation import Conversation, FileRefused
from server.commands.terminal import AnswerPrinter, make_harmless
from server.settings import SettingsError, client_api_key, load_settings
from tests.throwaway_server import Handler, address_of, listening


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def event(data: Any) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\n\ttext é 图", "plain\n\ttext é 图"),
        ("\x1b[2J\x1b]0;title\x07", "␛[2J␛]0;title␇"),
        ("over\rwritten\x08\x7f", "over␍written␈␡"),
        ("\x9b31m", "<U+009B>31m"),
        ("turned \u202earound", "turned <U+202E>around"),
    ],
)
def test_an_answer_cannot_steer_the_terminal(text: str, shown: str) -> None:
    assert make_harmless(text) == shown


def test_thinking_is_dim_and_apart_on_a_terminal() -> None:
    terminal = Terminal()
    printer = AnswerPrinter(terminal, terminal)
    printer.think("let me\x1b[0m ")
    printer.think("see")
    printer.answer("\n\n")
    printer.answer("A cat.")
    printer.end()
    assert terminal.getvalue() == "\x1b[2mlet me␛[0m see\x1b[0m\n\nA cat.\n"


def test_letters_are_plain_again_when_thinking_is_stopped() -> None:
    terminal = Terminal()
    printer = AnswerPrinter(terminal, terminal)
    printer.think("hm")
    printer.end()
    assert terminal.getvalue() == "\x1b[2mhm\x1b[0m\n"


def test_only_the_answer_goes_into_a_pipe() -> None:
    out, aside = io.StringIO(), io.StringIO()
    printer = AnswerPrinter(out, aside)
    printer.think("hm")
    printer.answer("A cat.")
    printer.end()
    printer.note("[usage]")
    assert out.getvalue() == "A cat.\n"
    assert aside.getvalue() == "hm\n\n[usage]\n"


def test_events_are_read_however_they_are_cut() -> None:
    """Nor does a line separator of Unicode's, which JSON may hold as it is, end a line."""
    sent = event({"text": "a\u2028b"}) + b": comment\n\n" + event({"text": "c"})
    sent += b"data: [DONE]\n\n"
    for size in (1, 7, len(sent)):
        chunks = (sent[start : start + size] for start in range(0, len(sent), size))
        assert list(read_events(chunks)) == [{"text": "a\u2028b"}, {"text": "c"}]


def test_an_error_in_a_stream_is_told() -> None:
    with pytest.raises(ChatError, match="out of time"):
        list(read_events([event({"error": {"message": "out of time"}})]))


def test_a_stream_that_breaks_off_is_told() -> None:
    with pytest.raises(ChatError, match="broken off"):
        list(read_events([event({"text": "a"})]))


def test_files_go_with_one_message_and_stay_with_it(tmp_path: Path) -> None:
    picture, clip = tmp_path / "a.png", tmp_path / "b.unknown"
    picture.write_bytes(b"png")
    clip.write_bytes(b"mp4")
    conversation = Conversation("be brief")
    assert conversation.attach("image", picture) == 3
    conversation.attach("video", clip)
    system, asked = conversation.with_question("what?")
    assert system == {"role": "system", "content": "be brief"}
    assert [part["type"] for part in asked["content"]] == ["image_url", "video_url", "text"]
    assert asked["content"][0]["image_url"]["url"] == "data:image/png;base64,cG5n"
    url = asked["content"][1]["video_url"]["url"]
    assert url == "data:application/octet-stream;base64,bXA0"
    assert conversation.with_question("again?")[1]["content"][0] == asked["content"][0]
    conversation.add_answer("what?", "a cat")
    messages = conversation.with_question("why?")
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[1] == asked and messages[3]["content"] == "why?"
    conversation.clear()
    assert [message["role"] for message in conversation.with_question("hi")] == ["system", "user"]


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileRefused, match="No such file"):
        Conversation(None).attach("image", tmp_path / "none.png")


def test_usage_is_one_line() -> None:
    usage = {
        "prompt_tokens": 54,
        "completion_tokens": 21,
        "completion_tokens_details": {"reasoning_tokens": 16},
        "prompt_tokens_details": {"cached_tokens": 48},
    }
    assert describe_usage(usage, 10.0, 10.5, 12.5, "length") == (
        "[54 prompt tokens (48 cached), 21 tokens (16 thinking), first after 0.50 s, "
        "10.0 tokens/s, cut: no room for more tokens (--max-tokens)]"
    )
    assert describe_usage({}, 1.0, 1.0, 1.0, "stop") == (
        "[0 prompt tokens, 0 tokens, first after 0.00 s]"
    )


def test_the_key_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert client_api_key() is None
    monkeypatch.setenv("OPENAI_API_KEY", "its key")
    assert client_api_key() == "its key"
    # nobody is to believe that this protects the server
    monkeypatch.setenv("QWEN3VL_API_KEY", "its key")
    with pytest.raises(SettingsError, match="QWEN3VL_API_KEY"):
        load_settings(None, {})


class FakeServer(Handler):
    """Answers every request with what `found` holds, and keeps the key that came with it."""

    found: tuple[int, bytes] = (200, b"")
    key: str | None = None

    def do_GET(self) -> None:
        type(self).key = self.headers["authorization"]
        self.answer(*self.found)


@pytest.fixture
def url() -> Iterator[str]:
    with listening(FakeServer) as server:
        yield address_of(server)


def test_no_proxy_is_told_the_key_of_a_server_on_this_machine(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    FakeServer.found = (200, b'{"data": [{"id": "demo"}]}')
    assert ChatClient(url, "its key").find_model() == "demo"


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, b'{"error": {"message": "no key"}}', r"no key \(401\); give an API key"),
        (503, b'{"error": {"message": "loading"}}', r"loading \(503\)$"),
        (502, b"<html>", r"Bad Gateway \(502\)"),
        (200, b"<html>", "does not answer as such a server does"),
        (200, b'{"data": []}', "does not answer as such a server does"),
    ],
)
def test_answers_that_are_none_are_told_in_words(
    url: str, status: int, body: bytes, words: str
) -> None:
    FakeServer.found = status, body
    with closing(ChatClient(url, None)) as client, pytest.raises(ChatError, match=words):
        client.find_model()


def test_the_key_is_sent(url: str) -> None:
    FakeServer.found = 200, b'{"data": [{"id": "demo"}]}'
    with closing(ChatClient(f"{url}/v1/", "sk-1")) as client:
        assert client.find_model() == "demo"
    assert FakeServer.key == "Bearer sk-1"


@pytest.mark.parametrize("wrong", ["ftp://host", "http://host:port", "nothing"])
def test_a_url_of_no_server_is_told(wrong: str) -> None:
    with pytest.raises(ChatError, match="is not the URL"), closing(ChatClient(wrong, None)) as c:
        c.find_model()


def test_a_key_that_no_header_can_hold_is_refused() -> None:
    with pytest.raises(ChatError, match="API key"):
        ChatClient("http://127.0.0.1:1", "two\nlines")
