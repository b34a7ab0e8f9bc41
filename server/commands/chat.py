"""`qwen3vl-serve chat`: talk to a running server in the terminal, or ask it one question."""

import argparse
import os
import stat
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TextIO

from server.commands.chat_client import ChatClient, ChatError
from server.commands.chat_conversation import Conversation, FileRefused, MediaKind
from server.commands.terminal import AnswerPrinter, make_harmless
from server.settings import client_api_key
from server.units import format_bytes

_DEFAULT_URL = "http://127.0.0.1:8000"
_PROMPT = "> "
_INTERRUPTED = 130  # the exit status of what SIGINT ends
_HELP = """\
/image FILE   let a picture go with the next message
/video FILE   let a clip go with the next message
/clear        forget what has been said
/help         this
/quit         end, as Ctrl-D does; Ctrl-C stops an answer"""


def main(argv: Sequence[str]) -> int:
    """Chat. Returns: the exit status: 1 if the server refused or cannot be reached, 2 for wrong
    arguments, 130 if a single question was interrupted."""
    arguments = _parser().parse_args(argv)
    for stream in (sys.stdin, sys.stdout, sys.stderr):  # nothing is refused for its letters
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        api_key = _read_key(arguments.api_key_file)
        conversation = _begin(arguments)
    except FileRefused as error:
        return _complain(str(error), 2)
    try:
        with closing(ChatClient(arguments.url, api_key)) as client:
            question = _single_question(arguments.prompt)
            if question == "":
                return _complain("there is nothing to ask", 2)
            model = arguments.model or client.find_model()
            chat = _Chat(client, model, conversation, _options(arguments))
            return chat.talk() if question is None else chat.ask_once(question)
    except ChatError as error:
        return _complain(str(error), 1)
    except KeyboardInterrupt:
        return _INTERRUPTED


class _Chat:
    def __init__(
        self,
        client: ChatClient,
        model: str,
        conversation: Conversation,
        options: Mapping[str, Any],
    ) -> None:
        self._client = client
        self._model = model
        self._conversation = conversation
        self._options = options
        self._printer = AnswerPrinter(sys.stdout, _aside())

    def ask_once(self, question: str) -> int:
        """Raises: ChatError, KeyboardInterrupt."""
        self._ask(question)
        return 0

    def talk(self) -> int:
        """Until the user ends it."""
        with suppress(ImportError):  # `input` edits lines and remembers them once it is there
            import readline  # noqa: F401
        self._printer.note(f"{self._model}; /help lists the commands")
        while (line := _read_line()) is not None:
            if line.startswith("/"):
                if not self._obey(*line.partition(" ")[::2]):
                    break
            elif line:
                self._ask_and_go_on(line)
        return 0

    def _ask_and_go_on(self, question: str) -> None:
        try:
            self._ask(question)
        except ChatError as error:
            self._printer.note(str(error))
        except KeyboardInterrupt:
            self._printer.note("stopped")

    def _ask(self, question: str) -> None:
        """Print an answer and keep it, also the beginning of one. Raises: ChatError."""
        started, first_at = time.perf_counter(), None
        answer, reason = "", None
        usage: Mapping[str, Any] = {}
        messages = self._conversation.with_question(question)
        pieces = self._client.ask(self._model, messages, self._options)
        try:
            with closing(pieces):  # aborts what is not read to its end
                for piece in pieces:
                    if first_at is None and (piece.thinking or piece.text):
                        first_at = time.perf_counter()
                    if piece.thinking:
                        self._printer.think(piece.thinking)
                    if piece.text:
                        self._printer.answer(piece.text)
                    answer += piece.text
                    reason = piece.finish_reason or reason
                    usage = piece.usage or usage
        finally:
            self._printer.end()
            if answer:
                self._conversation.add_answer(question, answer)
        ended = time.perf_counter()
        self._printer.note(describe_usage(usage, started, first_at or ended, ended, reason))

    def _obey(self, command: str, argument: str) -> bool:
        """Whether to go on."""
        kinds: dict[str, MediaKind] = {"/image": "image", "/video": "video"}
        if command in kinds:
            self._attach(kinds[command], argument.strip())
        elif command == "/clear":
            self._conversation.clear()
            self._printer.note("all forgotten")
        elif command == "/help":
            self._printer.note(_HELP)
        elif command != "/quit":
            self._printer.note(f"there is no {command}; /help lists the commands")
        return command != "/quit"

    def _attach(self, kind: MediaKind, name: str) -> None:
        if len(name) > 1 and name[0] == name[-1] and name[0] in "'\"":
            name = name[1:-1]
        try:
            num_bytes = self._conversation.attach(kind, Path(name))
        except FileRefused as error:
            self._printer.note(str(error))
        else:
            self._printer.note(f"{name} ({format_bytes(num_bytes)}) goes with the next message")


def describe_usage(
    usage: Mapping[str, Any],
    started: float,
    first_at: float,
    ended: float,
    finish_reason: str | None,
) -> str:
    """Args: started, first_at, ended: seconds; of the question, the first token and the last."""
    num_tokens = usage.get("completion_tokens", 0)
    thinking = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    parts = [
        f"{usage.get('prompt_tokens', 0)} prompt tokens"
        + (f" ({cached} cached)" if cached else ""),
        f"{num_tokens} tokens" + (f" ({thinking} thinking)" if thinking else ""),
        f"first after {first_at - started:.2f} s",
    ]
    if num_tokens > 1 and ended > first_at:
        parts.append(f"{(num_tokens - 1) / (ended - first_at):.1f} tokens/s")
    if finish_reason == "length":
        parts.append("cut: no room for more tokens (--max-tokens)")
    return "[" + ", ".join(parts) + "]"


def _read_line() -> str | None:
    """None at the end of the input; Ctrl-C only drops what has been typed."""
    while True:
        try:
            return input(_PROMPT).strip()
        except EOFError:
            print()
            return None
        except KeyboardInterrupt:
            print()


def _aside() -> TextIO:
    """Where the answer goes into a file or a pipe, nothing else goes there."""
    return sys.stdout if sys.stdout.isatty() else sys.stderr


def _single_question(prompt: str | None) -> str | None:
    """The argument and what is piped in, below each other; None if this is to be a chat."""
    if sys.stdin.isatty():
        return prompt
    piped = sys.stdin.read().strip() if prompt is None or _is_fed() else ""
    return "\n\n".join(part for part in (prompt, piped) if part)


def _is_fed() -> bool:
    """Whether standard input is a pipe or a file: it may be anything that was left open."""
    with suppress(OSError, ValueError):
        mode = os.fstat(sys.stdin.fileno()).st_mode
        return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)
    return False


def _begin(arguments: argparse.Namespace) -> Conversation:
    """Raises: FileRefused."""
    conversation = Conversation(arguments.system)
    for kind, path in arguments.media:
        conversation.attach(kind, path)
    return conversation


def _read_key(path: Path | None) -> str | None:
    """Raises: FileRefused."""
    if path is None:
        return client_api_key()
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise FileRefused(f"{path}: {reason}") from error


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fields of the request, those that are given."""
    options = {"max_tokens": arguments.max_tokens, "temperature": arguments.temperature}
    given = {name: value for name, value in options.items() if value is not None}
    if arguments.no_thinking:
        given["chat_template_kwargs"] = {"enable_thinking": False}
    return given


def _complain(message: str, status: int) -> int:
    print(f"qwen3vl-serve chat: {make_harmless(message)}", file=sys.stderr)
    return status


class _Media(argparse.Action):
    """`--image` and `--video` in the order in which they are given."""

    def __call__(
        self, parser: object, namespace: Any, values: Any, option: str | None = None
    ) -> None:
        namespace.media = [*namespace.media, ((option or "").removeprefix("--"), values)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="qwen3vl-serve chat", description=__doc__)
    parser.add_argument("prompt", nargs="?", help="ask this and end; text may be piped in as well")
    parser.add_argument("--url", default=_DEFAULT_URL, help="of the server (%(default)s)")
    parser.add_argument("--model", help="default: the first one that the server has")
    for kind in ("image", "video"):
        parser.add_argument(
            f"--{kind}",
            type=Path,
            metavar="FILE",
            action=_Media,
            dest="media",
            default=[],
            help="goes with the first message; may be given again",
        )
    parser.add_argument("--system", metavar="TEXT", help="system message")
    parser.add_argument("--no-thinking", action="store_true", help="let the model answer at once")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="of an answer")
    parser.add_argument("--temperature", type=float, metavar="T", help="0: the likeliest tokens")
    parser.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help="default: OPENAI_API_KEY in the environment",
    )
    return parser
