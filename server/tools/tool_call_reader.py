"""Reads the JSON object of one tool call while the model writes it."""

import json
from collections.abc import Callable, Collection

from server.tools.json_scanner import JSON_WHITESPACE, JsonScanner, is_json_object

_ARGUMENTS_KEYS = ("arguments", "parameters")


class ToolCallReader:
    """Reads `{"name": ..., "arguments": {...}}`, in any order and among other keys.

    A call without arguments, or with null, has `{}`. Arguments in a string that holds an object are
    that object.

    Args:
        tool_names: the functions that may be called.
    Attributes:
        is_complete: the object has ended.
        is_malformed: it cannot become a call of one of the functions.
    """

    def __init__(self, tool_names: Collection[str]) -> None:
        self.is_complete = False
        self.is_malformed = False
        self._tool_names = tool_names
        self._name: str | None = None
        self._has_arguments = False
        self._were_arguments_first = False
        self._arguments: list[str] = []  # not yet taken
        self._take_mark: Callable[[str], None] = self._begin_object
        self._begin_value: Callable[[str], None] = self._begin_other_value
        self._scanner: JsonScanner | None = None
        self._pieces: list[str] | None = None  # where the scanned text is kept, if it is
        self._end_value: Callable[[], None] | None = None

    @property
    def name(self) -> str | None:
        """The function, from when the call can be announced: its arguments are still to come."""
        return None if self._were_arguments_first and not self.is_complete else self._name

    def take_arguments(self) -> str:
        """The new text of the arguments; nothing before there is a `name`."""
        if self.name is None:
            return ""
        text = "".join(self._arguments)
        self._arguments.clear()
        return text

    def read(self, text: str, start: int) -> int:
        """Take the text from `start` on as far as it belongs to the object.

        Returns: where that ends; before the end of the text if the object is complete or malformed.
        """
        position = start
        while position < len(text) and not (self.is_complete or self.is_malformed):
            if self._scanner is not None:
                position = self._scan_value(self._scanner, text, position)
            elif text[position] in JSON_WHITESPACE:
                position += 1
            else:
                self._take_mark(text[position])
                # The first character of a value is left to its scanner.
                position += self._scanner is None and not self.is_malformed
        return position

    def _scan_value(self, scanner: JsonScanner, text: str, start: int) -> int:
        position = scanner.scan(text, start)
        if self._pieces is not None:
            self._pieces.append(text[start:position])
        self.is_malformed = scanner.is_malformed
        if scanner.is_complete:
            self._scanner = None
            self._take_mark = self._continue_object
            if self._end_value is not None:
                self._end_value()
        return position

    def _begin_scan(
        self, pieces: list[str] | None = None, end: Callable[[], None] | None = None
    ) -> None:
        """Scan a value, keep its text in `pieces` and call `end` after it."""
        self._scanner = JsonScanner()
        self._pieces = pieces
        self._end_value = end

    def _load_string(self) -> str | None:
        """The string, or null, that has been scanned."""
        value: str | None = json.loads("".join(self._pieces or []))
        return value

    def _begin_object(self, mark: str) -> None:
        self._take_mark = self._begin_key_or_end
        self.is_malformed = mark != "{"

    def _begin_key_or_end(self, mark: str) -> None:
        if mark == "}":
            self._end_object()
        else:
            self._begin_key(mark)

    def _continue_object(self, mark: str) -> None:
        if mark == "}":
            self._end_object()
        elif mark == ",":
            self._take_mark = self._begin_key
        else:
            self.is_malformed = True

    def _end_object(self) -> None:
        if not self._has_arguments:
            self._arguments.append("{}")
        self.is_malformed = self._name is None
        self.is_complete = not self.is_malformed

    def _begin_key(self, mark: str) -> None:
        self.is_malformed = mark != '"'
        self._begin_scan([], self._end_key)

    def _end_key(self) -> None:
        key = self._load_string()
        self._take_mark = self._take_colon
        if key == "name":
            self.is_malformed = self._name is not None
            self._begin_value = self._begin_name
        elif key in _ARGUMENTS_KEYS:
            self.is_malformed = self._has_arguments
            self._begin_value = self._begin_arguments
        else:
            self._begin_value = self._begin_other_value

    def _take_colon(self, mark: str) -> None:
        self.is_malformed = mark != ":"
        self._take_mark = self._begin_value

    def _begin_name(self, mark: str) -> None:
        self.is_malformed = mark != '"'
        self._begin_scan([], self._end_name)

    def _end_name(self) -> None:
        name = self._load_string()
        if name in self._tool_names:
            self._name = name
            self._were_arguments_first = self._has_arguments
        else:
            self.is_malformed = True

    def _begin_arguments(self, mark: str) -> None:
        self._has_arguments = True
        if mark == "{":
            self._begin_scan(self._arguments)
        else:
            self.is_malformed = mark not in '"n'
            self._begin_scan([], self._end_other_arguments)

    def _end_other_arguments(self) -> None:
        text = self._load_string()
        if text is None:
            text = "{}"
        if is_json_object(text):
            self._arguments.append(text)
        else:
            self.is_malformed = True

    def _begin_other_value(self, mark: str) -> None:
        self._begin_scan()
