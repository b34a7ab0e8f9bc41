"""What has been said in a terminal chat, and the files that go with the next message."""

import base64
import mimetypes
from pathlib import Path
from typing import Any, Literal

MediaKind = Literal["image", "video"]


class FileRefused(Exception):
    """A file that cannot be read; the message says why."""


class Conversation:
    """Messages as the chat API has them. A message that is not answered is taken back."""

    def __init__(self, system: str | None) -> None:
        self._first = [] if system is None else [{"role": "system", "content": system}]
        self.clear()

    def clear(self) -> None:
        """Forget all but the system message, files included."""
        self._messages: list[dict[str, Any]] = []
        self._media: list[dict[str, Any]] = []

    def attach(self, kind: MediaKind, path: Path) -> int:
        """Let a file go with the next message. Returns: its bytes. Raises: FileRefused."""
        try:
            data = path.expanduser().read_bytes()
        except (OSError, RuntimeError) as error:  # the latter: no home of that user
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise FileRefused(f"{path}: {reason}") from error
        self._media.append(media_part(kind, path, data))
        return len(data)

    def with_question(self, text: str) -> list[dict[str, Any]]:
        """All messages, a new one of the user's at their end."""
        return [*self._first, *self._messages, self._question(text)]

    def add_answer(self, question: str, answer: str) -> None:
        """Keep both, once there is an answer."""
        self._messages += [self._question(question), {"role": "assistant", "content": answer}]
        self._media = []

    def _question(self, text: str) -> dict[str, Any]:
        if not self._media:
            return {"role": "user", "content": text}
        return {"role": "user", "content": [*self._media, {"type": "text", "text": text}]}


def media_part(kind: MediaKind, path: Path, data: bytes) -> dict[str, Any]:
    """An image or video of a user message, inside a data URL."""
    guessed = mimetypes.guess_type(path.name)[0] or ""
    media_type = guessed if guessed.startswith(f"{kind}/") else "application/octet-stream"
    url = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
    return {"type": f"{kind}_url", f"{kind}_url": {"url": url}}
