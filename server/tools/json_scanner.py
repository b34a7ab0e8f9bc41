"""Checks a JSON value while a model writes it, character by character and without building it."""

from collections.abc import Callable

from server.tools.json_tokens import (
    LITERAL_STARTS,
    NUMBER_STARTS,
    LiteralReader,
    NumberReader,
    StringReader,
)

JSON_WHITESPACE = " \t\n\r"
MAX_DEPTH = 64

_CLOSING_MARKS = {"{": "}", "[": "]"}


class JsonScanner:
    """Finds the end of one JSON value (RFC 8259), or the character where it ceases to be one.

    Objects and arrays nest at most `MAX_DEPTH` deep. Names of an object may be repeated.

    Attributes:
        is_complete: the value has ended. A number ends with the character after it.
        is_malformed: the character after the scanned ones cannot stand there.
    """

    def __init__(self) -> None:
        self.is_complete = False
        self.is_malformed = False
        self._open_containers: list[str] = []  # their closing marks, outermost first
        self._token: StringReader | NumberReader | LiteralReader | None = None
        self._take_mark: Callable[[str], None] = self._begin_value
        self._end_token: Callable[[], None] = self._end_value

    def scan(self, text: str, start: int) -> int:
        """Take the text from `start` on as far as it belongs to the value.

        Returns: where that ends; before the end of the text if the value is complete or malformed.
        """
        position = start
        while position < len(text) and not (self.is_complete or self.is_malformed):
            if self._token is not None:
                position = self._scan_token(self._token, text, position)
                continue
            if text[position] not in JSON_WHITESPACE:
                self._take_mark(text[position])
            position += not self.is_malformed
        return position

    def _scan_token(
        self, token: StringReader | NumberReader | LiteralReader, text: str, start: int
    ) -> int:
        position = token.scan(text, start)
        self.is_malformed = token.is_malformed
        if token.is_complete:
            self._token = None
            self._end_token()
        return position

    def _begin_value(self, mark: str) -> None:
        self._end_token = self._end_value
        if mark in _CLOSING_MARKS and len(self._open_containers) < MAX_DEPTH:
            self._open_containers.append(_CLOSING_MARKS[mark])
            self._take_mark = self._begin_container
        elif mark == '"':
            self._token = StringReader()
        elif mark in NUMBER_STARTS:
            self._token = NumberReader(mark)
        elif mark in LITERAL_STARTS:
            self._token = LiteralReader(mark)
        else:
            self.is_malformed = True

    def _end_value(self) -> None:
        self._take_mark = self._continue_container
        self.is_complete = not self._open_containers

    def _begin_container(self, mark: str) -> None:
        if mark == self._open_containers[-1]:
            self._close_container()
        else:
            self._begin_item(mark)

    def _continue_container(self, mark: str) -> None:
        if mark == self._open_containers[-1]:
            self._close_container()
        elif mark == ",":
            self._take_mark = self._begin_item
        else:
            self.is_malformed = True

    def _close_container(self) -> None:
        self._open_containers.pop()
        self._end_value()

    def _begin_item(self, mark: str) -> None:
        if self._open_containers[-1] == "]":
            self._begin_value(mark)
        elif mark == '"':
            self._token = StringReader()
            self._end_token = self._end_name
        else:
            self.is_malformed = True

    def _end_name(self) -> None:
        self._take_mark = self._take_colon

    def _take_colon(self, mark: str) -> None:
        if mark == ":":
            self._take_mark = self._begin_value
        else:
            self.is_malformed = True


def is_json_object(text: str) -> bool:
    """Whether the text is one JSON object, with whitespace around it or not."""
    stripped = text.strip(JSON_WHITESPACE)
    scanner = JsonScanner()
    num_scanned = scanner.scan(stripped, 0)
    return stripped.startswith("{") and scanner.is_complete and num_scanned == len(stripped)
