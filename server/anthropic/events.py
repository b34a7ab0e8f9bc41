"""The parts of an answer as the events of Anthropic's content blocks, one block after the other."""

from typing import Any

import orjson

from server.answer_format import encode_named_event
from server.answer_parts import (
    AnswerPart,
    ContentText,
    ReasoningText,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallFailed,
    ToolCallStart,
)

# Says nothing, as there is nothing to prove. Some clients drop thinking whose signature is empty.
SIGNATURE = "unsigned"
_TEXT: dict[str, Any] = {"type": "text", "text": ""}
_THINKING: dict[str, Any] = {"type": "thinking", "thinking": "", "signature": ""}
_DELTAS = {  # type of a block -> type of its deltas, and the field that has what is new
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool_use": ("input_json_delta", "partial_json"),
}


class BlockEvents:
    """Writes the content blocks of one stream.

    Args:
        shows_thinking: if not, reasoning is left out.
    """

    def __init__(self, *, shows_thinking: bool) -> None:
        self._shows_thinking = shows_thinking
        self._index = -1
        self._open_type: str | None = None
        self._delta_start = b""

    def write(self, part: AnswerPart) -> bytes:
        """The events of one part; none if it is not shown."""
        match part:
            case ContentText(text):
                return self._enter(_TEXT) + self._add(text)
            case ReasoningText(text):
                return self._enter(_THINKING) + self._add(text) if self._shows_thinking else b""
            case ToolCallStart(_, call_id, name):
                block = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
                return self.close() + self._open(block)
            case ToolCallArguments(_, text):
                return self._add(text)
            case ToolCallEnd():
                return self.close()
            case ToolCallFailed(_, raw):
                return self._enter(_TEXT) + self._add(raw)

    def close(self) -> bytes:
        """The end of the open block, if there is one."""
        signed = b""
        if self._open_type is None:
            return signed
        if self._open_type == "thinking":
            delta = {"type": "signature_delta", "signature": SIGNATURE}
            signed = self._encode("content_block_delta", delta=delta)
        self._open_type = None
        return signed + self._encode("content_block_stop")

    def _enter(self, block: dict[str, Any]) -> bytes:
        """Nothing if a block of this type is open."""
        return b"" if self._open_type == block["type"] else self.close() + self._open(block)

    def _open(self, block: dict[str, Any]) -> bytes:
        self._index += 1
        self._open_type = block["type"]
        delta_type, field = _DELTAS[block["type"]]
        delta = self._encode("content_block_delta", delta={"type": delta_type, field: ""})
        self._delta_start = delta.removesuffix(b'""}}\n\n')
        return self._encode("content_block_start", content_block=block)

    def _add(self, text: str) -> bytes:
        """Hundreds of these make an answer, so that only what is new in them is written anew."""
        return self._delta_start + orjson.dumps(text) + b"}}\n\n"

    def _encode(self, event: str, **fields: Any) -> bytes:
        return encode_named_event(event, {"type": event, "index": self._index, **fields})
