"""The output items of a response, as dicts: reasoning, message, function call."""

import uuid
from collections.abc import Sequence
from typing import Any, Literal

Status = Literal["in_progress", "completed", "incomplete"]


def make_id(prefix: Literal["resp", "rs", "msg", "fc"]) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"


def describe_reasoning(item_id: str, text: str | None, status: Status) -> dict[str, Any]:
    """`text` is None as long as there is no content."""
    content = [] if text is None else [describe_reasoning_text(text)]
    return {
        "id": item_id,
        "type": "reasoning",
        "summary": [],
        "content": content,
        "status": status,
    }


def describe_message(
    item_id: str, text: str | None, status: Status, logprobs: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """`text` is None as long as there is no content."""
    content = [] if text is None else [describe_output_text(text, logprobs)]
    return {
        "id": item_id,
        "type": "message",
        "role": "assistant",
        "content": content,
        "status": status,
    }


def describe_call(
    item_id: str, call_id: str, name: str, arguments: str, status: Status
) -> dict[str, Any]:
    return {
        "id": item_id,
        "type": "function_call",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
        "status": status,
    }


def describe_reasoning_text(text: str) -> dict[str, Any]:
    return {"type": "reasoning_text", "text": text}


def describe_output_text(text: str, logprobs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}
