"""A model's answer on a terminal, which it cannot steer; thinking is set apart from it."""

import re
from typing import TextIO

# Control characters but line feed and tab, and marks that turn the direction of writing around.
_HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_PICTURES = 0x2400  # ␀, ␁ ... ␛ ... for the codes from 0 on
_DELETE = 0x7F
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


def make_harmless(text: str) -> str:
    """The text with `␛` for an escape, and so on."""
    return _HARMFUL.sub(lambda found: _picture(ord(found[0])), text)


def _picture(code: int) -> str:
    if code < 0x20:
        return chr(_PICTURES + code)
    return "␡" if code == _DELETE else f"<U+{code:04X}>"


class AnswerPrinter:
    """Writes one answer as it comes; `end` must follow, also after an exception.

    Args:
        out: for the answer.
        aside: for what is not part of it: thinking and notes.
    """

    def __init__(self, out: TextIO, aside: TextIO) -> None:
        self._out, self._aside = out, aside
        self._last = ""  # the character that the current one follows
        self._is_thinking = False

    def think(self, text: str) -> None:
        if not self._is_thinking:
            self._is_thinking = True
            self._style(_DIM)
        self._write(self._aside, text)

    def answer(self, text: str) -> None:
        if self._is_thinking:
            text = text.lstrip("\n")
            if not text:
                return
            self._stop_thinking()
            self._write(self._aside, "\n")
        self._write(self._out, text)

    def end(self) -> None:
        """At the start of a line, and in plain letters again."""
        if self._is_thinking:
            self._stop_thinking()
        elif self._last not in ("", "\n"):
            self._write(self._out, "\n")
        self._last = ""

    def note(self, text: str) -> None:
        """A line that is no part of an answer."""
        self._style(_DIM)
        self._write(self._aside, text)
        self._style(_PLAIN)
        self._write(self._aside, "\n")

    def _stop_thinking(self) -> None:
        self._is_thinking = False
        self._style(_PLAIN)
        if self._last != "\n":
            self._write(self._aside, "\n")

    def _write(self, stream: TextIO, text: str) -> None:
        if text:
            self._last = text[-1]
            stream.write(make_harmless(text))
            stream.flush()

    def _style(self, sequence: str) -> None:
        if self._aside.isatty():
            self._aside.write(sequence)
