"""The parts of JSON without parts of their own, checked while a model writes them.

Each reader begins after the first character of its string, number or literal, and `scan`s text from
a position on: it returns where what belongs to it ends. That is before the end of the text only
once the reader `is_complete`, or `is_malformed`: then the next character is the wrong one.
"""

import re
from collections.abc import Callable

_DIGITS = "0123456789"
_HEX_DIGITS = _DIGITS + "abcdefABCDEF"
_PLAIN_TEXT = re.compile(r'[^"\\\x00-\x1f]*')


def _moves(*choices: tuple[str, str]) -> dict[str, str]:
    return {character: state for characters, state in choices for character in characters}


# For each state within a number: which characters may follow, and the state they lead to.
_NUMBER_MOVES = {
    "start": _moves(("-", "minus"), ("0", "zero"), ("123456789", "integer")),
    "minus": _moves(("0", "zero"), ("123456789", "integer")),
    "zero": _moves((".", "point"), ("eE", "exponent mark")),
    "integer": _moves((_DIGITS, "integer"), (".", "point"), ("eE", "exponent mark")),
    "point": _moves((_DIGITS, "fraction")),
    "fraction": _moves((_DIGITS, "fraction"), ("eE", "exponent mark")),
    "exponent mark": _moves(("+-", "exponent sign"), (_DIGITS, "exponent")),
    "exponent sign": _moves((_DIGITS, "exponent")),
    "exponent": _moves((_DIGITS, "exponent")),
}
_WHOLE_NUMBERS = ("zero", "integer", "fraction", "exponent")
_LITERAL_ENDS = {"t": "rue", "f": "alse", "n": "ull"}

NUMBER_STARTS = frozenset(_NUMBER_MOVES["start"])
LITERAL_STARTS = frozenset(_LITERAL_ENDS)


class NumberReader:
    """Reads a number. It ends with the character after it, which it does not take."""

    def __init__(self, first: str) -> None:
        self.is_complete = False
        self.is_malformed = False
        self._state = _NUMBER_MOVES["start"][first]

    def scan(self, text: str, position: int) -> int:
        while position < len(text):
            state = _NUMBER_MOVES[self._state].get(text[position])
            if state is None:
                self.is_complete = self._state in _WHOLE_NUMBERS
                self.is_malformed = not self.is_complete
                break
            self._state = state
            position += 1
        return position


class LiteralReader:
    """Reads `true`, `false` or `null`."""

    def __init__(self, first: str) -> None:
        self.is_complete = False
        self.is_malformed = False
        self._rest = _LITERAL_ENDS[first]

    def scan(self, text: str, position: int) -> int:
        while position < len(text) and self._rest and not self.is_malformed:
            if text[position] == self._rest[0]:
                self._rest = self._rest[1:]
                position += 1
            else:
                self.is_malformed = True
        self.is_complete = not self._rest
        return position


class StringReader:
    """Reads a string. An escaped surrogate must be half of a pair: many parsers refuse others."""

    def __init__(self) -> None:
        self.is_complete = False
        self.is_malformed = False
        # Takes an unusual character; without it, plain text goes on.
        self._take: Callable[[str], None] | None = None
        self._code_digits = ""
        self._follows_high_surrogate = False

    def scan(self, text: str, position: int) -> int:
        while position < len(text) and not (self.is_complete or self.is_malformed):
            if self._take is None:
                plain = _PLAIN_TEXT.match(text, position)
                assert plain is not None  # no characters match, too
                position = plain.end()
                self._take = self._leave_plain_text
                continue
            self._take(text[position])
            position += not self.is_malformed
        return position

    def _leave_plain_text(self, character: str) -> None:
        if character == "\\":
            self._take = self._begin_escape
        elif character == '"':
            self.is_complete = True
        elif character < " ":
            self.is_malformed = True
        else:
            self._take = None

    def _begin_escape(self, character: str) -> None:
        if character == "u":
            self._code_digits = ""
            self._take = self._take_code_digit
        elif character in '"\\/bfnrt' and not self._follows_high_surrogate:
            self._take = None
        else:
            self.is_malformed = True

    def _take_code_digit(self, character: str) -> None:
        if character not in _HEX_DIGITS:
            self.is_malformed = True
            return
        self._code_digits += character
        if len(self._code_digits) == 4:
            self._end_code(int(self._code_digits, 16))

    def _end_code(self, code: int) -> None:
        is_high, is_low = 0xD800 <= code < 0xDC00, 0xDC00 <= code < 0xE000
        self.is_malformed = is_low != self._follows_high_surrogate
        self._follows_high_surrogate = is_high
        self._take = self._begin_low_surrogate if is_high else None

    def _begin_low_surrogate(self, character: str) -> None:
        if character == "\\":
            self._take = self._begin_escape
        else:
            self.is_malformed = True
