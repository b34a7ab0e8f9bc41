"""What `/v1/messages` answers: `message`, the events of its stream, its errors."""

from typing import Annotated, Any, Literal

from pydantic import Field, RootModel

from server.anthropic.protocol import MessagesRequest
from server.engine import ItemSource
from server.openapi.answer_schemas import AnswerModel, may_be_absent

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class CreateMessageRequest(MessagesRequest):
    """The body of `/v1/messages`, where `max_tokens` is required."""

    max_tokens: int = Field(ge=1)


class AnsweredText(AnswerModel):
    type: Literal["text"]
    text: str


class AnsweredThinking(AnswerModel):
    """`signature` proves nothing; in a stream it comes at the end."""

    type: Literal["thinking"]
    thinking: str
    signature: str


class AnsweredToolUse(AnswerModel):
    """In a stream, `input` is empty at first, and comes as `input_json_delta`."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


AnsweredBlock = Annotated[
    AnsweredText | AnsweredThinking | AnsweredToolUse, Field(discriminator="type")
]


class MessageUsage(AnswerModel):
    """`input_tokens` does not count what was read from the prefix cache. `item_sources` only with
    the header `x-include-item-sources`."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    item_sources: list[ItemSource] = may_be_absent()


class MessageHead(AnswerModel):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    usage: MessageUsage


class AnthropicMessage(MessageHead):
    """`stop_sequence` is null unless it is the reason."""

    content: list[AnsweredBlock]
    stop_reason: StopReason
    stop_sequence: str | None


class StartedMessage(MessageHead):
    content: Annotated[list[AnsweredBlock], Field(max_length=0)]
    stop_reason: None
    stop_sequence: None


class MessageStart(AnswerModel):
    type: Literal["message_start"]
    message: StartedMessage


class BlockStart(AnswerModel):
    type: Literal["content_block_start"]
    index: int
    content_block: AnsweredBlock


class TextDelta(AnswerModel):
    type: Literal["text_delta"]
    text: str


class ThinkingDelta(AnswerModel):
    type: Literal["thinking_delta"]
    thinking: str


class SignatureDelta(AnswerModel):
    type: Literal["signature_delta"]
    signature: str


class InputDelta(AnswerModel):
    type: Literal["input_json_delta"]
    partial_json: str


class BlockDelta(AnswerModel):
    type: Literal["content_block_delta"]
    index: int
    delta: Annotated[
        TextDelta | ThinkingDelta | SignatureDelta | InputDelta, Field(discriminator="type")
    ]


class BlockStop(AnswerModel):
    type: Literal["content_block_stop"]
    index: int


class MessageEnd(AnswerModel):
    stop_reason: StopReason
    stop_sequence: str | None


class MessageEndDelta(AnswerModel):
    type: Literal["message_delta"]
    delta: MessageEnd
    usage: MessageUsage


class MessageStop(AnswerModel):
    type: Literal["message_stop"]


class AnthropicErrorDetail(AnswerModel):
    """`param` and `code` are as OpenAI has them."""

    message: str
    type: Literal[
        "invalid_request_error",
        "authentication_error",
        "permission_error",
        "not_found_error",
        "request_too_large",
        "rate_limit_error",
        "overloaded_error",
        "timeout_error",
        "api_error",
    ]
    param: str | None
    code: str


class AnthropicErrorAnswer(AnswerModel):
    type: Literal["error"]
    error: AnthropicErrorDetail


class AnthropicEvent(
    RootModel[
        Annotated[
            MessageStart
            | BlockStart
            | BlockDelta
            | BlockStop
            | MessageEndDelta
            | MessageStop
            | AnthropicErrorAnswer,
            Field(discriminator="type"),
        ]
    ]
):
    """The data of an event, which is named by its `type`; an error ends the stream."""


class TokenCount(AnswerModel):
    input_tokens: int
