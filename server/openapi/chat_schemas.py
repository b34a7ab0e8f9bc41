"""What `/v1/chat/completions` answers: `chat.completion` and the events of its stream."""

from typing import Literal

from pydantic import RootModel

from server.choice import FinishReason
from server.engine import ItemSource
from server.openapi.answer_schemas import AnswerModel, ErrorAnswer, may_be_absent


class PromptTokensDetails(AnswerModel):
    """`item_sources` only with the header `x-include-item-sources`."""

    cached_tokens: int
    image_tokens: int
    video_tokens: int
    item_sources: list[ItemSource] = may_be_absent()


class CompletionTokensDetails(AnswerModel):
    reasoning_tokens: int


class CompletionUsage(AnswerModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class TokenAlternative(AnswerModel):
    """A token may hold a part of a character, so its text is given as bytes, too."""

    token: str
    logprob: float
    bytes: list[int]


class DrawnToken(TokenAlternative):
    top_logprobs: list[TokenAlternative]


class ChoiceLogprobs(AnswerModel):
    """All tokens, those of the reasoning too."""

    content: list[DrawnToken]
    refusal: None


class AnsweredFunction(AnswerModel):
    """`arguments` is the JSON text of an object, unless the answer was cut in it."""

    name: str
    arguments: str


class AnsweredCall(AnswerModel):
    id: str
    type: Literal["function"]
    function: AnsweredFunction


class AnsweredMessage(AnswerModel):
    """`content` is null beside calls, and where the answer was cut in its reasoning. Both names of
    the reasoning are there if the checkpoint was asked to think."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str | None = may_be_absent()
    reasoning: str | None = may_be_absent()
    tool_calls: list[AnsweredCall] = may_be_absent()


class ChatChoice(AnswerModel):
    index: int
    message: AnsweredMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(AnswerModel):
    """`created` is in seconds since 1970."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: CompletionUsage


class FunctionDelta(AnswerModel):
    name: str = may_be_absent()
    arguments: str


class CallDelta(AnswerModel):
    """The first of a call has its `id`, `type` and name."""

    index: int
    id: str = may_be_absent()
    type: Literal["function"] = may_be_absent()
    function: FunctionDelta


class MessageDelta(AnswerModel):
    role: Literal["assistant"] = may_be_absent()
    content: str = may_be_absent()
    reasoning_content: str = may_be_absent()
    reasoning: str = may_be_absent()
    tool_calls: list[CallDelta] = may_be_absent()


class ChunkChoice(AnswerModel):
    """`finish_reason` is null until the last chunk of a choice."""

    index: int
    delta: MessageDelta
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason | None


class ChatCompletionChunk(AnswerModel):
    """`usage` is there with `include_usage`; the last chunk then has it, and no choices."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: CompletionUsage | None = may_be_absent()


class ChatEvent(RootModel[ChatCompletionChunk | ErrorAnswer]):
    """The data of an event; an error ends the stream."""
