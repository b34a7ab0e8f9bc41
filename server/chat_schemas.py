"""What chat and plain completions answer, for the OpenAPI document. Tests hold the answers to it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from server.engine import ItemSource


class AnswerModel(BaseModel):
    """A JSON object of an answer; it has no other fields."""

    model_config = ConfigDict(extra="forbid")


class PromptTokensDetails(AnswerModel):
    """`item_sources` only with the header `x-include-item-sources`."""

    cached_tokens: int
    image_tokens: int
    video_tokens: int
    item_sources: list[ItemSource] | None = None


class CompletionTokensDetails(AnswerModel):
    reasoning_tokens: int


class CompletionUsage(AnswerModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class TopLogprob(AnswerModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(AnswerModel):
    content: list[TokenLogprob]
    refusal: None


class CalledFunction(AnswerModel):
    name: str
    arguments: str


class ToolCall(AnswerModel):
    id: str
    type: Literal["function"]
    function: CalledFunction


class AssistantMessage(AnswerModel):
    """Both names of the reasoning are there if the checkpoint was asked to think."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] | None = None


class ChatChoice(AnswerModel):
    index: int
    message: AssistantMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(AnswerModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: CompletionUsage


class FunctionDelta(AnswerModel):
    name: str | None = None
    arguments: str


class ToolCallDelta(AnswerModel):
    """The first of a call has its `id`, `type` and name."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta


class MessageDelta(AnswerModel):
    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChunkChoice(AnswerModel):
    index: int
    delta: MessageDelta
    logprobs: ChoiceLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"] | None


class ChatCompletionChunk(AnswerModel):
    """An event of a stream; the last one with `include_usage` has no choices."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: CompletionUsage | None = None


class TextLogprobs(AnswerModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(AnswerModel):
    """`finish_reason` is null in a stream until the last event of a choice."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class TextCompletion(AnswerModel):
    """A whole answer, and each event of a stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: CompletionUsage | None = None


class TokenizeAnswer(AnswerModel):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeAnswer(AnswerModel):
    prompt: str


class ErrorDetail(AnswerModel):
    """`param` points into the body."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(AnswerModel):
    """Any error; `/v1/messages` says `type` beside it."""

    error: ErrorDetail
    type: Literal["error"] | None = None
