"""Conversations of the ShareGPT and the OpenAI form, read into messages of the OpenAI form."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from benchmarks.workload.error import WorkloadError
from benchmarks.workload.message import Message, Part, media_part, parts_of, text_part

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_KINDS = ("image", "video")
_PLACEHOLDER = re.compile(r"\s*<(image|video)>\s*")


def read_conversation(line: bytes) -> tuple[Sequence[Message], int | None]:
    """Messages, in which media still are as the line has them, and the line's `max_tokens`.

    Raises: WorkloadError, without the number of the line.
    """
    try:
        entry = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise WorkloadError("not JSON") from None
    entry = entry if isinstance(entry, dict) else {}
    if isinstance(entry.get("messages"), list):
        messages = entry["messages"]
        _check_messages(messages)
    elif isinstance(entry.get("conversations"), list):
        messages = _from_sharegpt(entry)
    else:
        raise WorkloadError("neither a list `messages` nor a list `conversations`")
    if not any(message["role"] == "user" for message in messages):
        raise WorkloadError("no message of a user")
    return messages, _max_tokens(entry)


def _max_tokens(entry: Mapping[str, Any]) -> int | None:
    max_tokens = entry.get("max_tokens")
    if max_tokens is None or (isinstance(max_tokens, int) and max_tokens >= 1):
        return max_tokens
    raise WorkloadError("`max_tokens` is not a number of at least 1")


def _check_messages(messages: Sequence[Any]) -> None:
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise WorkloadError("a message without a `role`")
        for part in parts_of(message):
            if not isinstance(part, dict) or not isinstance(part.get("type"), str):
                raise WorkloadError("a content part without a `type`")
            holder = part.get(part["type"])
            if part["type"] in ("image_url", "video_url") and not (
                isinstance(holder, dict) and isinstance(holder.get("url"), str)
            ):
                raise WorkloadError(f"a content part `{part['type']}` without a `url`")


def _from_sharegpt(entry: Mapping[str, Any]) -> Sequence[Message]:
    """Media stand where their placeholders are; what has none stands before the first question."""
    pairs = [_role_and_text(said) for said in entry["conversations"]]
    texts = "\n".join(text for role, text in pairs if role == "user")
    media = {kind: _paths(entry, kind) for kind in _KINDS}
    first: list[Part] = []
    waiting: dict[str, Iterator[str]] = {}
    for kind, paths in media.items():
        num_surplus = len(paths) - texts.count(f"<{kind}>")
        if num_surplus < 0:
            raise WorkloadError(f"more placeholders <{kind}> than files `{kind}`")
        first += [media_part(kind, path) for path in paths[:num_surplus]]
        waiting[kind] = iter(paths[num_surplus:])
    messages: list[Message] = []
    for role, text in pairs:
        content: str | list[Part] = text
        if role == "user":
            content = _content(text, waiting, first)
            first = []
        messages.append({"role": role, "content": content})
    return messages


def _role_and_text(said: Any) -> tuple[str, str]:
    speaker = said.get("from") if isinstance(said, dict) else None
    if speaker not in _ROLES or not isinstance(said.get("value"), str):
        raise WorkloadError(
            f"an entry without `value`, or with a `from` that is none of {[*_ROLES]}"
        )
    return _ROLES[speaker], said["value"]


def _paths(entry: Mapping[str, Any], kind: str) -> Sequence[str]:
    """`image` or `images`, one or a list."""
    given = entry.get(kind) or entry.get(f"{kind}s") or []
    paths = [given] if isinstance(given, str) else given
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise WorkloadError(f"`{kind}` is neither a path nor a list of paths")
    return paths


def _content(
    text: str, waiting: Mapping[str, Iterator[str]], first: Sequence[Part]
) -> str | list[Part]:
    pieces = _PLACEHOLDER.split(text)  # text and kind in turn
    if len(pieces) == 1 and not first:
        return text
    parts = list(first)
    for index, piece in enumerate(pieces):
        if index % 2:
            parts.append(media_part(piece, next(waiting[piece])))
        elif piece:
            parts.append(text_part(piece))
    return parts
