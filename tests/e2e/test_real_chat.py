"""`qwen3vl-serve chat` against a real server: on a terminal of its own, and in a pipe."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.e2e.real_server import COMMAND, RealServer, server_environment
from tests.throwaway_server import Handler, address_of, listening

PICTURE = "demo/examples/shapes.png"
TIMEOUT_S = 120
PROMPT = re.compile(r"(^|\n)> $")
USAGE = re.compile(r"\[(\d+) prompt tokens.*?, (\d+) tokens")
_ENVIRONMENT = server_environment(TERM="dumb")


class TerminalChat:
    """What a person sees and types."""

    def __init__(self, terminal: int, process: subprocess.Popen[bytes]) -> None:
        self._terminal, self.process = terminal, process
        self._unread = b""

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def read_until(self, pattern: re.Pattern[str]) -> str:
        """All that has been written since the last call, up to the pattern."""
        deadline = time.monotonic() + TIMEOUT_S
        while not pattern.search(shown := self._unread.decode(errors="ignore").replace("\r", "")):
            assert time.monotonic() < deadline, f"no {pattern.pattern!r} in {shown!r}"
            if select.select([self._terminal], [], [], 1)[0]:
                with suppress(OSError):  # the other end is closed
                    self._unread += os.read(self._terminal, 65536)
        self._unread = b""
        return shown

    def ask(self, line: str) -> str:
        self.type(f"{line}\n")
        return self.read_until(PROMPT)


def _heed_ctrl_c() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # the terminal makes it a signal
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # what runs in the background ignores it


@contextmanager
def terminal_chat(url: str, *options: str) -> Iterator[TerminalChat]:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [COMMAND, "chat", "--url", url, *options],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=_ENVIRONMENT,
        start_new_session=True,
        preexec_fn=_heed_ctrl_c,
    )
    os.close(theirs)
    try:
        yield TerminalChat(ours, process)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def run_chat(*argv: str, piped: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "chat", *argv],
        input=piped,
        stdin=subprocess.DEVNULL if piped is None else None,
        capture_output=True,
        text=True,
        env=_ENVIRONMENT,
        timeout=TIMEOUT_S,
    )


def test_a_conversation_on_a_terminal(hybrid: RealServer) -> None:
    with terminal_chat(
        hybrid.base_url, "--no-thinking", "--max-tokens", "4", "--temperature", "0"
    ) as chat:
        assert "tiny; /help lists the commands" in chat.read_until(PROMPT)
        assert "/image FILE" in chat.ask("/help")
        first = USAGE.search(chat.ask("hello"))
        assert first and 0 < int(first[2]) <= 4
        assert "goes with the next message" in chat.ask(f"/image {PICTURE}")
        with_picture = USAGE.search(chat.ask("what is it?"))
        assert with_picture and int(with_picture[1]) > int(first[1]) + 30  # and what was said
        assert "No such file" in chat.ask("/image none.png")
        assert "there is no /nothing" in chat.ask("/nothing")
        assert "all forgotten" in chat.ask("/clear")
        again = USAGE.search(chat.ask("hello"))
        assert again and again[1] == first[1]
        chat.type("\x04")
        assert chat.process.wait(TIMEOUT_S) == 0


class Endless(Handler):
    """Answers until its client goes away."""

    is_left: threading.Event

    def do_GET(self) -> None:
        self.answer(200, b'{"data": [{"id": "endless"}]}')

    def do_POST(self) -> None:
        self.read_body()
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        event = {"choices": [{"index": 0, "delta": {"content": "word "}}]}
        with suppress(OSError):
            while not self.is_left.wait(0.01):
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.is_left.set()


@pytest.fixture
def endless() -> Iterator[tuple[str, threading.Event]]:
    handler = type("Handler", (Endless,), {"is_left": threading.Event()})
    with listening(handler) as server:
        try:
            yield address_of(server), handler.is_left
        finally:
            handler.is_left.set()


def test_ctrl_c_stops_the_answer_and_not_the_chat(endless: tuple[str, threading.Event]) -> None:
    url, is_left = endless
    with terminal_chat(url) as chat:
        chat.read_until(PROMPT)
        chat.type("hello\n")
        chat.read_until(re.compile("word word"))
        chat.type("\x03")
        assert "stopped" in chat.read_until(PROMPT)
        assert is_left.wait(TIMEOUT_S)  # what an engine then does: test_disconnects_live.py
        chat.type("\x03")  # nothing to stop
        chat.read_until(PROMPT)
        chat.type("/quit\n")
        assert chat.process.wait(TIMEOUT_S) == 0


def test_one_question_and_what_is_piped_in(hybrid: RealServer) -> None:
    options = ("--url", f"{hybrid.base_url}/v1", "--max-tokens", "4", "--no-thinking")
    asked = run_chat(*options, "--image", PICTURE, "what is it?")
    piped = run_chat(*options, piped="what is it?\n")
    assert (asked.returncode, piped.returncode) == (0, 0), asked.stderr + piped.stderr
    usages = [USAGE.search(done.stderr) for done in (asked, piped)]
    assert usages[0] and usages[1] and int(usages[0][1]) > int(usages[1][1]) + 30
    assert asked.stdout.endswith("\n") and "prompt tokens" not in asked.stdout


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        (("--model", "other", "hi"), 1, "the model served here is `tiny` (404)"),
        (("--image", "pyproject.toml", "hi"), 1, "(4"),
        (("--image", "none.png", "hi"), 2, "No such file"),
        (("--url", "http://127.0.0.1:1", "hi"), 1, "is it running?"),
        ((), 2, "there is nothing to ask"),
    ],
)
def test_what_goes_wrong_is_told_in_words(
    hybrid: RealServer, argv: tuple[str, ...], status: int, words: str
) -> None:
    done = run_chat("--url", hybrid.base_url, *argv)
    assert done.returncode == status and done.stdout == ""
    assert words in done.stderr and "Traceback" not in done.stderr
