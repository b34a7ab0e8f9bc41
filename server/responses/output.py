"""The output of a response while it is streamed: parts of an answer become items and events."""

from collections.abc import Iterator
from typing import Any

from server.answer_parts import (
    AnswerPart,
    ContentText,
    ReasoningText,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallFailed,
    ToolCallStart,
)
from server.responses.events import EventEncoder
from server.responses.items import Status
from server.responses.open_items import (
    Logprobs,
    OpenCall,
    OpenItem,
    OpenMessage,
    OpenReasoning,
)


class OutputStream:
    """Writes down the parts of an answer; one item is open at a time.

    A call that turns out malformed stays in the output, incomplete, and its text follows in a
    message: what was sent cannot be taken back.
    """

    def __init__(self, events: EventEncoder) -> None:
        self._events = events
        self._closed: list[dict[str, Any]] = []
        self._open: OpenItem | None = None
        self._has_answer = False  # a message or a call

    def describe(self, open_status: Status) -> list[dict[str, Any]]:
        """All items so far; `open_status` is that of the last one, if it is open."""
        if self._open is None:
            return self._closed
        return [*self._closed, self._open.describe(open_status)]

    def write(self, part: AnswerPart, logprobs: Logprobs) -> Iterator[bytes]:
        match part:
            case ContentText(text):
                yield from self._write_text(text, logprobs)
            case ReasoningText(text):
                if not isinstance(self._open, OpenReasoning):
                    yield from self._begin(OpenReasoning(self._events, self._num_items))
                assert self._open is not None
                yield self._open.write(text)
            case ToolCallStart():
                self._has_answer = True
                yield from self._begin(OpenCall(self._events, self._num_items, part))
            case ToolCallArguments(_, text):
                assert isinstance(self._open, OpenCall)
                yield self._open.write(text)
            case ToolCallEnd():
                yield from self._close("completed")
            case ToolCallFailed(_, raw):
                yield from self._close("incomplete")
                yield from self._write_text(raw, ())

    def end(self, status: Status, *, is_reasoning: bool) -> Iterator[bytes]:
        """Close what is open. An answer of nothing has an empty message, unless it was cut.

        Args:
            status: of the open item.
        """
        if not self._has_answer and not is_reasoning:
            yield from self._begin(OpenMessage(self._events, self._num_items))
        yield from self._close(status)

    @property
    def _num_items(self) -> int:
        return len(self._closed) + (self._open is not None)

    def _write_text(self, text: str, logprobs: Logprobs) -> Iterator[bytes]:
        if not isinstance(self._open, OpenMessage):
            self._has_answer = True
            yield from self._begin(OpenMessage(self._events, self._num_items))
        assert self._open is not None
        yield self._open.write(text, logprobs)

    def _begin(self, item: OpenItem) -> Iterator[bytes]:
        yield from self._close("completed")
        self._open = item
        described = item.describe("in_progress")
        yield self._events.encode(
            "response.output_item.added", output_index=item.index, item=described
        )
        yield from item.open()

    def _close(self, status: Status) -> Iterator[bytes]:
        item, self._open = self._open, None
        if item is None:
            return
        yield from item.close(status)
        described = item.describe(status)
        self._closed.append(described)
        yield self._events.encode(
            "response.output_item.done", output_index=item.index, item=described
        )
