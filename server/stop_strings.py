"""Strings of the client that end an answer. Reasoning and an inserted sentence do not count."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True)  # for each token: frozen ones are made four times slower
class Stopped:
    """Text that is clear by now, and the stop string that ended it, if any."""

    text: str
    stop: str | None = None


class StopStrings:
    """Looks for the first of `strings` in the text of one answer.

    Args:
        included: the stop string found is part of the text.
    """

    def __init__(self, strings: Sequence[str], *, included: bool) -> None:
        self._strings = strings
        self._included = included
        self._max_held = max(map(len, strings)) - 1
        self._held = ""

    def push(self, text: str, *, is_armed: bool = True) -> Stopped:
        """Take new text. What may be the beginning of a stop string is held back.

        Args:
            is_armed: False while the answer is too short to be ended: its text is let through.
        """
        text = self._held + text
        if not is_armed:
            self._held = ""
            return Stopped(text)
        found = [(at, s) for s in self._strings if (at := text.find(s)) >= 0]
        if found:
            at, stop = min(found, key=lambda hit: (hit[0] + len(hit[1]), hit[0]))
            self._held = ""
            return Stopped(text[: at + len(stop) if self._included else at], stop)
        num_held = self._count_held(text)
        self._held = text[len(text) - num_held :]
        return Stopped(text[: len(text) - num_held])

    def flush(self) -> str:
        """The answer has ended: whatever was held back is text."""
        held, self._held = self._held, ""
        return held

    def _count_held(self, text: str) -> int:
        """The length of the longest end of `text` that begins a stop string."""
        for length in range(min(self._max_held, len(text)), 0, -1):
            end = text[-length:]
            if any(string.startswith(end) for string in self._strings):
                return length
        return 0
