"""Reasoning and content of an answer, told apart while it streams in.

What comes before the token `</think>` is reasoning, if the prompt ends with an open block. The
token counts, not its letters: so reasoning ends where the engine's grammar begins (see
`model_executor.reasoning_gate`). Line breaks right after the block's ends and before the closing
one belong to the format and are dropped, as the checkpoints' chat template does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

OPEN_TAG = "<think>"
CLOSE_TAG = "</think>"


@dataclass(slots=True)  # for each token: frozen ones are made four times slower
class Split:
    """New text of an answer, by where it belongs."""

    reasoning: str
    content: str


class ReasoningSplitter:
    """Splits the text of one answer that begins inside the reasoning block.

    Args:
        close_id: the token `</think>`.
    """

    def __init__(self, close_id: int) -> None:
        self._close_id = close_id
        self._is_reasoning = True
        self._drops_line_breaks = True
        self._line_breaks = ""  # held back: they may be the last ones before the end
        self._num_reasoning_tokens = 0

    @property
    def is_reasoning(self) -> bool:
        """Whether the block is still open."""
        return self._is_reasoning

    @property
    def num_reasoning_tokens(self) -> int:
        """Tokens between the tags."""
        return self._num_reasoning_tokens

    def push(self, text: str, token_ids: Sequence[int]) -> Split:
        """Take new text, made of `token_ids`; return what is clear by now."""
        if not self._is_reasoning:
            return Split("", self._without_leading_breaks(text))
        if self._close_id not in token_ids:
            self._num_reasoning_tokens += len(token_ids)
            return Split(self._hold_line_breaks(text), "")
        self._num_reasoning_tokens += token_ids.index(self._close_id)
        before, _, after = text.partition(CLOSE_TAG)
        reasoning = self._hold_line_breaks(before)
        self._is_reasoning, self._drops_line_breaks, self._line_breaks = False, True, ""
        return Split(reasoning, self._without_leading_breaks(after))

    def flush(self) -> Split:
        """The answer has ended: whatever was held back is text."""
        held, self._line_breaks = self._line_breaks, ""
        return Split(held, "")

    def _hold_line_breaks(self, text: str) -> str:
        text = self._line_breaks + self._without_leading_breaks(text)
        clear = text.rstrip("\n")
        self._line_breaks = text[len(clear) :]
        return clear

    def _without_leading_breaks(self, text: str) -> str:
        if self._drops_line_breaks:
            text = text.lstrip("\n")
            self._drops_line_breaks = not text
        return text
