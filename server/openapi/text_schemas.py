"""What `/v1/completions` answers: `text_completion`, whole or as the events of a stream."""

from typing import Literal

from pydantic import RootModel

from server.openapi.answer_schemas import AnswerModel, ErrorAnswer, may_be_absent
from server.openapi.chat_schemas import CompletionUsage

TextFinishReason = Literal["stop", "length"]


class TextLogprobs(AnswerModel):
    """An entry per token; `text_offset` counts characters of an echoed prompt and the answer."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(AnswerModel):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: TextFinishReason


class TextCompletion(AnswerModel):
    """`created` is in seconds since 1970."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: CompletionUsage


class TextChunkChoice(AnswerModel):
    """`finish_reason` is null until the last chunk of a choice."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: TextFinishReason | None


class TextCompletionChunk(AnswerModel):
    """`usage` is there with `include_usage`; the last chunk then has it, and no choices."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChunkChoice]
    usage: CompletionUsage | None = may_be_absent()


class TextEvent(RootModel[TextCompletionChunk | ErrorAnswer]):
    """The data of an event; an error ends the stream."""
