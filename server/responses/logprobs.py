"""Log probabilities of an answer's text; tokens of reasoning and of calls are left out."""

from collections.abc import Sequence
from typing import Any

from server.answer import Answer
from server.answer_parts import AnswerPart, ContentText, ReasoningText
from server.chat_format import describe_logprobs
from server.choice import Delta
from server.engine import TokenLogprob


class TextLogprobs:
    """Gives each piece of text its tokens, as OpenAI describes them.

    Text that is held back, because it may turn out to be something else, comes with its tokens
    later. Where one delta holds text and a call, the text gets the tokens of both.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._num_tokens = 0  # of all deltas so far
        self._is_text = not answer.can_reason
        self._pending: list[TokenLogprob] = []

    def push(self, delta: Delta) -> None:
        """Take the tokens of a delta, before its parts are written."""
        self._num_tokens += delta.num_tokens
        if self._is_text:
            self._pending += delta.logprobs
        elif not self._answer.is_reasoning(delta.index):
            self._is_text = True
            num_before = self._answer.usage.num_reasoning_tokens + 1  # the closing tag
            num_new = max(self._num_tokens - num_before, 0)
            self._pending += delta.logprobs[max(len(delta.logprobs) - num_new, 0) :]

    def take(self, part: AnswerPart) -> Sequence[dict[str, Any]]:
        """The tokens of a part."""
        if isinstance(part, ReasoningText):
            return ()
        taken, self._pending = self._pending, []
        if not isinstance(part, ContentText):
            return ()
        entries: list[dict[str, Any]] = describe_logprobs(taken)["content"]
        return entries
