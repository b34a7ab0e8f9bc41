"""Server-sent events of the Responses API: each has a name and a number."""

from typing import Any

import orjson

from server.answer_format import encode_named_event


class EventEncoder:
    """Numbers the events of one stream, from 0."""

    def __init__(self) -> None:
        self._num_events = 0

    def encode(self, kind: str, **fields: Any) -> bytes:
        number = self._take_number()
        return encode_named_event(kind, {"type": kind, "sequence_number": number, **fields})

    def encode_delta(self, head: bytes, text: str, tail: bytes = b"") -> bytes:
        """An event that has been encoded but for its number and its text.

        Args:
            head: made by `make_head`.
            tail: further fields, each after a comma.
        """
        number = b"%d" % self._take_number()
        return b"".join((head, number, b',"delta":', orjson.dumps(text), tail, b"}\n\n"))

    def _take_number(self) -> int:
        number = self._num_events
        self._num_events += 1
        return number


def make_head(kind: str, **fields: Any) -> bytes:
    """An event up to its number, which comes next."""
    event = encode_named_event(kind, {"type": kind, **fields})
    return event.removesuffix(b"}\n\n") + b',"sequence_number":'
