"""A request in the core's terms, whichever endpoint it came to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from server.answer_format import AnswerFormat
from server.protocol import ChatCompletionRequest
from server.text_protocol import CompletionRequest


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks (`Client.id`), and the name of the model that is served."""

    client: str
    model: str


@dataclass(frozen=True, slots=True)
class Ask:
    """What to generate, and how to write it. `unknown` names fields that are ignored.

    `prefers_no_thinking`: a hybrid checkpoint does not think unless the request says so.
    `field_names`: a field of `request` -> what the body calls it, for errors; see `named_by`.
    """

    request: ChatCompletionRequest | CompletionRequest
    format: AnswerFormat
    unknown: tuple[str, ...] = ()
    prefers_no_thinking: bool = False
    field_names: Mapping[str, str] = field(default_factory=dict)


class Dialect(Protocol):
    """One endpoint that generates: its bodies, its answers, its errors."""

    def parse(self, body: bytes | bytearray, caller: Caller) -> Ask:
        """Raises: InvalidRequest."""
        ...

    def describe_error(self, body: dict[str, Any], status: int) -> dict[str, Any]:
        """An error as this API has it; `body` is OpenAI's error object."""
        ...
