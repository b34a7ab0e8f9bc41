"""A whole answer of one choice, put together from its parts."""

from dataclasses import dataclass, field

from server.answer_parts import (
    AnswerPart,
    ContentText,
    ReasoningText,
    ToolCallArguments,
    ToolCallFailed,
    ToolCallStart,
)


@dataclass(slots=True)
class CollectedCall:
    """`arguments` are pieces of JSON text."""

    id: str
    name: str
    arguments: list[str] = field(default_factory=list)


class CollectedMessage:
    """A whole answer of one choice, collected from its parts.

    Attributes:
        calls: index -> call; those that failed are content instead.
    """

    def __init__(self) -> None:
        self._reasoning: list[str] = []
        self._content: list[str] = []
        self.calls: dict[int, CollectedCall] = {}

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    @property
    def content(self) -> str:
        return "".join(self._content)

    def add(self, part: AnswerPart) -> None:
        match part:
            case ReasoningText(text):
                self._reasoning.append(text)
            case ContentText(text):
                self._content.append(text)
            case ToolCallStart(index, call_id, name):
                self.calls[index] = CollectedCall(call_id, name)
            case ToolCallArguments(index, text):
                self.calls[index].arguments.append(text)
            case ToolCallFailed(index, raw):
                del self.calls[index]
                self._content.append(raw)
            case _:
                pass
