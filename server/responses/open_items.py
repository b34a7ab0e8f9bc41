"""Output items while they are streamed: the events in which they open, grow and close."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from server.answer_parts import ToolCallStart
from server.responses.events import EventEncoder, make_head
from server.responses.items import (
    Status,
    describe_call,
    describe_message,
    describe_output_text,
    describe_reasoning,
    describe_reasoning_text,
    make_id,
)

Logprobs = Sequence[dict[str, Any]]


class OpenItem(ABC):
    """An output item that may grow.

    Attributes:
        index: its place in the output.
        texts: the pieces of its text so far.
    """

    def __init__(self, events: EventEncoder, index: int) -> None:
        self._events = events
        self.index = index
        self.texts: list[str] = []

    @abstractmethod
    def describe(self, status: Status) -> dict[str, Any]:
        """The item as it is now; one that is in progress is described as it began."""

    @abstractmethod
    def open(self) -> Iterator[bytes]:
        """The events after the one that adds the item."""

    @abstractmethod
    def write(self, text: str, logprobs: Logprobs = ()) -> bytes:
        """More text."""

    @abstractmethod
    def close(self, status: Status) -> Iterator[bytes]:
        """The events before the one that ends the item."""


class OpenReasoning(OpenItem):
    def __init__(self, events: EventEncoder, index: int) -> None:
        super().__init__(events, index)
        self._id = make_id("rs")
        self._place = {"item_id": self._id, "output_index": index, "content_index": 0}
        self._head = make_head("response.reasoning_text.delta", **self._place)

    def describe(self, status: Status) -> dict[str, Any]:
        text = None if status == "in_progress" else "".join(self.texts)
        return describe_reasoning(self._id, text, status)

    def open(self) -> Iterator[bytes]:
        part = describe_reasoning_text("")
        yield self._events.encode("response.content_part.added", **self._place, part=part)

    def write(self, text: str, logprobs: Logprobs = ()) -> bytes:
        self.texts.append(text)
        return self._events.encode_delta(self._head, text)

    def close(self, status: Status) -> Iterator[bytes]:
        text = "".join(self.texts)
        yield self._events.encode("response.reasoning_text.done", **self._place, text=text)
        part = describe_reasoning_text(text)
        yield self._events.encode("response.content_part.done", **self._place, part=part)


class OpenMessage(OpenItem):
    def __init__(self, events: EventEncoder, index: int) -> None:
        super().__init__(events, index)
        self._id = make_id("msg")
        self._place = {"item_id": self._id, "output_index": index, "content_index": 0}
        self._head = make_head("response.output_text.delta", **self._place)
        self._logprobs: list[dict[str, Any]] = []

    def describe(self, status: Status) -> dict[str, Any]:
        text = None if status == "in_progress" else "".join(self.texts)
        return describe_message(self._id, text, status, self._logprobs)

    def open(self) -> Iterator[bytes]:
        part = describe_output_text("", ())
        yield self._events.encode("response.content_part.added", **self._place, part=part)

    def write(self, text: str, logprobs: Logprobs = ()) -> bytes:
        self.texts.append(text)
        self._logprobs += logprobs
        encoded = orjson.dumps(logprobs) if logprobs else b"[]"
        return self._events.encode_delta(self._head, text, b',"logprobs":' + encoded)

    def close(self, status: Status) -> Iterator[bytes]:
        text, logprobs = "".join(self.texts), self._logprobs
        fields = {**self._place, "text": text, "logprobs": logprobs}
        yield self._events.encode("response.output_text.done", **fields)
        part = describe_output_text(text, logprobs)
        yield self._events.encode("response.content_part.done", **self._place, part=part)


class OpenCall(OpenItem):
    """A function call; one that breaks off is closed as incomplete, its arguments never done."""

    def __init__(self, events: EventEncoder, index: int, start: ToolCallStart) -> None:
        super().__init__(events, index)
        self._id = make_id("fc")
        self._start = start
        self._place = {"item_id": self._id, "output_index": index}
        self._head = make_head("response.function_call_arguments.delta", **self._place)

    def describe(self, status: Status) -> dict[str, Any]:
        arguments = "" if status == "in_progress" else "".join(self.texts)
        return describe_call(self._id, self._start.id, self._start.name, arguments, status)

    def open(self) -> Iterator[bytes]:
        return iter(())

    def write(self, text: str, logprobs: Logprobs = ()) -> bytes:
        self.texts.append(text)
        return self._events.encode_delta(self._head, text)

    def close(self, status: Status) -> Iterator[bytes]:
        if status == "completed":
            fields = {**self._place, "name": self._start.name, "arguments": "".join(self.texts)}
            yield self._events.encode("response.function_call_arguments.done", **fields)
