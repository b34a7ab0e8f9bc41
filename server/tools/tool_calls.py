"""The tool calls in an answer, told apart from its content while it streams in.

Qwen writes a call as `<tool_call>`, a JSON object with `name` and `arguments`, and `</tool_call>`,
with line breaks after and before the tags, and one call after another.
"""

from collections.abc import Callable, Collection

from server.answer_parts import (
    AnswerPart,
    ContentText,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallFailed,
    ToolCallStart,
)
from server.tools.json_scanner import JSON_WHITESPACE
from server.tools.tool_call_reader import ToolCallReader

OPEN_TAG = "<tool_call>"
CLOSE_TAG = "</tool_call>"


class ToolCallParser:
    """Reads the content of one answer; the parts are the same however its text is cut.

    Arguments are handed on as the model writes them, once the function is known. What is not a call
    of one of the functions is content, as the model wrote it; whether another call begins where
    this one went wrong is looked at again. Whitespace after a call and line breaks before one
    belong to the format and are dropped.

    Args:
        tool_names: the functions that may be called.
        make_id: makes the id of a call that begins.
    """

    def __init__(self, tool_names: Collection[str], make_id: Callable[[], str]) -> None:
        self._tool_names = tool_names
        self._make_id = make_id
        self._num_calls = 0
        self._num_starts = 0
        self._parts: list[AnswerPart] = []  # of this push
        self._content: list[str] = []  # of this push, after the parts
        self._spaces: list[str] = []  # whitespace at the end of the content, held back
        self._follows_call = False
        self._partial_tag = ""
        self._read: Callable[[str, int], int] = self._read_content
        self._reader: ToolCallReader | None = None
        self._raw: list[str] = []  # the call, from its opening tag on
        self._is_started = False

    @property
    def num_calls(self) -> int:
        """Completed calls."""
        return self._num_calls

    def push(self, text: str) -> list[AnswerPart]:
        """Take new text; return what is clear by now."""
        text = self._partial_tag + text
        self._partial_tag = ""
        position = 0
        while position < len(text):
            position = self._read(text, position)
        return self._take_parts()

    def flush(self) -> list[AnswerPart]:
        """The answer has ended: a call may lack its closing tag, other beginnings are text."""
        if self._reader is None:
            self._take_content(self._partial_tag)
        elif self._reader.is_complete:
            self._end_call()
        else:
            self._fail_call()
        self._content += self._spaces
        return self._take_parts()

    def _read_content(self, text: str, position: int) -> int:
        tag_start = text.find("<", position)
        if tag_start != position:
            end = len(text) if tag_start < 0 else tag_start
            self._take_content(text[position:end])
            return end
        if text.startswith(OPEN_TAG, position):
            self._begin_call()
            return position + len(OPEN_TAG)
        if OPEN_TAG.startswith(text[position : position + len(OPEN_TAG)]):
            self._partial_tag = text[position:]
            return len(text)
        self._take_content("<")
        return position + 1

    def _read_call(self, text: str, position: int) -> int:
        assert self._reader is not None
        end = self._reader.read(text, position)
        self._raw.append(text[position:end])
        self._hand_on(self._reader)
        if self._reader.is_malformed:
            self._fail_call()
        elif self._reader.is_complete:
            self._read = self._read_close_tag
        return end

    def _read_close_tag(self, text: str, position: int) -> int:
        if text[position] in JSON_WHITESPACE:
            self._raw.append(text[position])
            return position + 1
        if text.startswith(CLOSE_TAG, position):
            self._end_call()
            return position + len(CLOSE_TAG)
        if CLOSE_TAG.startswith(text[position : position + len(CLOSE_TAG)]):
            self._partial_tag = text[position:]
            return len(text)
        self._fail_call()
        return position

    def _begin_call(self) -> None:
        spaces = "".join(self._spaces)
        kept = spaces.rstrip("\n")
        self._content.append(kept)
        self._spaces = [spaces[len(kept) :]]  # still needed if this is no call
        self._reader = ToolCallReader(self._tool_names)
        self._raw = [OPEN_TAG]
        self._is_started = False
        self._read = self._read_call

    def _hand_on(self, reader: ToolCallReader) -> None:
        if reader.name is not None and not self._is_started:
            self._is_started = True
            self._spaces.clear()
            self._emit(ToolCallStart(self._num_starts, self._make_id(), reader.name))
            self._num_starts += 1
        arguments = reader.take_arguments()
        if arguments:
            self._emit(ToolCallArguments(self._num_starts - 1, arguments))

    def _end_call(self) -> None:
        self._emit(ToolCallEnd(self._num_starts - 1))
        self._num_calls += 1
        self._follows_call = True
        self._leave_call()

    def _fail_call(self) -> None:
        raw = "".join(self._raw)
        if self._is_started:
            self._emit(ToolCallFailed(self._num_starts - 1, raw))
            self._follows_call = False
        else:
            self._take_content(raw)
        self._leave_call()

    def _leave_call(self) -> None:
        self._reader = None
        self._raw = []
        self._read = self._read_content

    def _take_content(self, text: str) -> None:
        """Whitespace is held back until something follows it."""
        if self._follows_call:
            text = text.lstrip()
            self._follows_call = not text
        stripped = text.rstrip()
        if stripped:
            self._content += [*self._spaces, stripped]
            self._spaces.clear()
        self._spaces.append(text[len(stripped) :])

    def _emit(self, part: AnswerPart) -> None:
        self._emit_content()
        self._parts.append(part)

    def _emit_content(self) -> None:
        text = "".join(self._content)
        self._content.clear()
        if text:
            self._parts.append(ContentText(text))

    def _take_parts(self) -> list[AnswerPart]:
        self._emit_content()
        parts, self._parts = self._parts, []
        return parts
