"""Messages of the chat completions API, and the history that they grow into."""

import base64
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from benchmarks.pictures import data_url
from benchmarks.workload.turn import Turn

Part = dict[str, Any]
Message = dict[str, Any]


def text_part(text: str) -> Part:
    return {"type": "text", "text": text}


def media_part(kind: str, url: str) -> Part:
    """`kind` is `image` or `video`."""
    return {"type": f"{kind}_url", f"{kind}_url": {"url": url}}


def file_part(kind: str, data: bytes, mime: str) -> Part:
    return media_part(kind, data_url(data, mime))


def frames_part(frames: Iterable[bytes]) -> Part:
    """A video as a list of JPEG files."""
    listed = ",".join(base64.b64encode(frame).decode() for frame in frames)
    return media_part("video", f"data:video/jpeg;base64,{listed}")


def user(*parts: Part) -> Message:
    return {"role": "user", "content": list(parts)}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


class History:
    """Messages so far. Each is encoded once, however many turns it is sent with."""

    def __init__(self) -> None:
        self._messages: list[bytes] = []
        self._num_images = 0
        self._num_videos = 0

    def add(self, message: Message) -> None:
        self._messages.append(orjson.dumps(message))
        kinds = [part["type"] for part in parts_of(message)]
        self._num_images += kinds.count("image_url")
        self._num_videos += kinds.count("video_url")

    def turn(self, max_tokens: int) -> Turn:
        return Turn(tuple(self._messages), self._num_images, self._num_videos, max_tokens)


def parts_of(message: Message) -> Sequence[Part]:
    """Content parts; none where the content is plain text or missing."""
    content = message.get("content")
    return content if isinstance(content, list) else ()
