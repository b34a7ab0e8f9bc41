"""Reasoning and content of an answer, told apart while it streams in.

The text between `<think>` and `</think>` is reasoning. Line breaks right after the tags and before
the closing one belong to the format and are dropped, as the checkpoints' chat template does.
"""

from dataclasses import dataclass
from typing import Literal

from server.errors import InvalidRequest

OPEN_TAG = "<think>"
CLOSE_TAG = "</think>"

ModelKind = Literal["instruct", "thinking", "hybrid"]


def resolve_thinking(kind: ModelKind, wanted: bool | None) -> bool | None:
    """What to tell the chat template; only a hybrid checkpoint has the choice.

    Raises: InvalidRequest if the checkpoint cannot do what is wanted.
    """
    if kind == "hybrid":
        return wanted
    if wanted is not None and wanted != (kind == "thinking"):
        always_or_never = "always" if kind == "thinking" else "never"
        raise InvalidRequest(
            f"this is a {kind} checkpoint: it {always_or_never} thinks",
            "unsupported_parameter",
            "chat_template_kwargs.enable_thinking",
        )
    return None


@dataclass(frozen=True, slots=True)
class Split:
    """New text of an answer, by where it belongs."""

    reasoning: str
    content: str


class ReasoningSplitter:
    """Splits the text of one answer; what may be the beginning of a tag is held back until clear.

    Args:
        starts_in_reasoning: the prompt ends with an open `<think>`.
        may_reason: a `<think>` at the beginning of the answer opens reasoning; otherwise, and
            anywhere else, it is content like any other text.
    """

    def __init__(self, *, starts_in_reasoning: bool, may_reason: bool) -> None:
        self._stage: Literal["undecided", "reasoning", "content"] = "content"
        if starts_in_reasoning:
            self._stage = "reasoning"
        elif may_reason:
            self._stage = "undecided"
        self._can_reason = starts_in_reasoning or may_reason
        self._has_reasoned = starts_in_reasoning
        self._drops_line_breaks = starts_in_reasoning
        self._held = ""
        self._num_tokens_before_content = 0

    @property
    def can_reason(self) -> bool:
        """Whether this answer could have reasoning at all."""
        return self._can_reason

    @property
    def is_reasoning(self) -> bool:
        return self._stage == "reasoning"

    @property
    def num_reasoning_tokens(self) -> int:
        """Tokens of every push that began before the content did.

        Exact up to the size of one push: the one with the closing tag counts as a whole.
        """
        return self._num_tokens_before_content if self._has_reasoned else 0

    def push(self, text: str, num_tokens: int) -> Split:
        """Take new text, made of `num_tokens` tokens; return what is clear by now."""
        if self._stage != "content":
            self._num_tokens_before_content += num_tokens
        self._held += text
        if self._stage == "undecided":
            self._decide()
        reasoning = self._take_reasoning() if self._stage == "reasoning" else ""
        content = self._take_content() if self._stage == "content" else ""
        return Split(reasoning, content)

    def flush(self) -> Split:
        """The answer has ended: whatever was held back is text."""
        held, self._held = self._held, ""
        return Split(held, "") if self._stage == "reasoning" else Split("", held)

    def _decide(self) -> None:
        text = self._held.lstrip()
        if text.startswith(OPEN_TAG):
            self._held = text.removeprefix(OPEN_TAG)
            self._stage = "reasoning"
            self._has_reasoned = self._drops_line_breaks = True
        elif not OPEN_TAG.startswith(text):
            self._stage = "content"

    def _take_reasoning(self) -> str:
        self._drop_line_breaks()
        reasoning, tag, rest = self._held.partition(CLOSE_TAG)
        if tag:
            self._held = rest
            self._stage = "content"
            self._drops_line_breaks = True
            return reasoning.rstrip("\n")
        reasoning = _without_partial_tag(self._held).rstrip("\n")
        self._held = self._held[len(reasoning) :]
        return reasoning

    def _take_content(self) -> str:
        self._drop_line_breaks()
        content, self._held = self._held, ""
        return content

    def _drop_line_breaks(self) -> None:
        if self._drops_line_breaks:
            self._held = self._held.lstrip("\n")
            self._drops_line_breaks = not self._held


def _without_partial_tag(text: str) -> str:
    for length in range(min(len(CLOSE_TAG) - 1, len(text)), 0, -1):
        if text.endswith(CLOSE_TAG[:length]):
            return text[:-length]
    return text
