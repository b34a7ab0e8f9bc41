"""What an answer is made of, in order and independent of the API in which it is written down."""

from dataclasses import dataclass


@dataclass(slots=True)  # for each token: frozen ones are made four times slower
class ReasoningText:
    """New text of the reasoning."""

    text: str


@dataclass(slots=True)  # for each token: frozen ones are made four times slower
class ContentText:
    """New text of the content."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """A call of the function `name` begins; `index` counts the starts of an answer from 0."""

    index: int
    id: str
    name: str


@dataclass(slots=True)  # for each token: frozen ones are made four times slower
class ToolCallArguments:
    """New text of a call's arguments; all of it together is a JSON object."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallEnd:
    """A call is complete."""

    index: int


@dataclass(frozen=True, slots=True)
class ToolCallFailed:
    """A call that has begun turns out malformed.

    Who writes whole answers drops the call and puts `raw` into the content. Who writes a stream
    cannot take back what was sent, and sends `raw` as content after it.

    Attributes:
        raw: all of the call as the model wrote it, from the opening tag to where it went wrong.
    """

    index: int
    raw: str


AnswerPart = (
    ReasoningText | ContentText | ToolCallStart | ToolCallArguments | ToolCallEnd | ToolCallFailed
)
