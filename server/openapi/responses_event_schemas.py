"""The events of a stream of `/v1/responses`, each named by its `type`."""

from typing import Annotated, Literal

from pydantic import Field, RootModel

from server.openapi.answer_schemas import AnswerModel
from server.openapi.chat_schemas import DrawnToken
from server.openapi.responses_schemas import (
    AnsweredReasoningPart,
    AnsweredTextPart,
    FinishedResponse,
    OutputItem,
    ResponseError,
    ResponseHead,
)

OutputPart = Annotated[AnsweredReasoningPart | AnsweredTextPart, Field(discriminator="type")]


class StartedResponse(ResponseHead):
    status: Literal["in_progress"]
    usage: None
    error: None
    incomplete_details: None
    completed_at: None


class FailedResponse(ResponseHead):
    status: Literal["failed"]
    usage: None
    error: ResponseError
    incomplete_details: None
    completed_at: None


class ResponseEventModel(AnswerModel):
    """`sequence_number` counts the events of a stream from 0."""

    sequence_number: int


class ResponseStarted(ResponseEventModel):
    type: Literal["response.created", "response.in_progress"]
    response: StartedResponse


class ResponseFinished(ResponseEventModel):
    type: Literal["response.completed", "response.incomplete"]
    response: FinishedResponse


class ResponseFailed(ResponseEventModel):
    type: Literal["response.failed"]
    response: FailedResponse


class ItemChanged(ResponseEventModel):
    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputItem


class ItemEvent(ResponseEventModel):
    item_id: str
    output_index: int


class PartEvent(ItemEvent):
    content_index: int


class PartChanged(PartEvent):
    type: Literal["response.content_part.added", "response.content_part.done"]
    part: OutputPart


class OutputTextDelta(PartEvent):
    type: Literal["response.output_text.delta"]
    delta: str
    logprobs: list[DrawnToken]


class OutputTextDone(PartEvent):
    type: Literal["response.output_text.done"]
    text: str
    logprobs: list[DrawnToken]


class ReasoningTextDelta(PartEvent):
    type: Literal["response.reasoning_text.delta"]
    delta: str


class ReasoningTextDone(PartEvent):
    type: Literal["response.reasoning_text.done"]
    text: str


class ArgumentsDelta(ItemEvent):
    type: Literal["response.function_call_arguments.delta"]
    delta: str


class ArgumentsDone(ItemEvent):
    type: Literal["response.function_call_arguments.done"]
    name: str
    arguments: str


class StreamError(ResponseEventModel):
    """`response.failed` comes behind it."""

    type: Literal["error"]
    code: str
    message: str
    param: str | None


class ResponsesEvent(
    RootModel[
        Annotated[
            ResponseStarted
            | ResponseFinished
            | ResponseFailed
            | ItemChanged
            | PartChanged
            | OutputTextDelta
            | OutputTextDone
            | ReasoningTextDelta
            | ReasoningTextDone
            | ArgumentsDelta
            | ArgumentsDone
            | StreamError,
            Field(discriminator="type"),
        ]
    ]
):
    """The data of an event, which is named by its `type`."""
