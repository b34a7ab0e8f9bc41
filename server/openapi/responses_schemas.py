"""What the Responses API answers: `response` with its items, and what is told of kept ones."""

from typing import Annotated, Any, Literal

from pydantic import Field

from server.engine import ItemSource
from server.openapi.answer_schemas import AnswerModel, may_be_absent
from server.openapi.chat_schemas import DrawnToken
from server.protocol import Effort
from server.responses.items import Status


class AnsweredReasoningPart(AnswerModel):
    type: Literal["reasoning_text"]
    text: str


class AnsweredTextPart(AnswerModel):
    """`logprobs` are empty unless they were asked for."""

    type: Literal["output_text"]
    text: str
    annotations: Annotated[list[Any], Field(max_length=0)]
    logprobs: list[DrawnToken]


class AnsweredReasoningItem(AnswerModel):
    id: str
    type: Literal["reasoning"]
    summary: Annotated[list[Any], Field(max_length=0)]
    content: list[AnsweredReasoningPart]
    status: Status


class AnsweredMessageItem(AnswerModel):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    content: list[AnsweredTextPart]
    status: Status


class AnsweredCallItem(AnswerModel):
    """`arguments` is the JSON text of an object, unless the call is incomplete."""

    id: str
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    status: Status


OutputItem = Annotated[
    AnsweredReasoningItem | AnsweredMessageItem | AnsweredCallItem, Field(discriminator="type")
]


class InputTokensDetails(AnswerModel):
    """`item_sources` only with the header `x-include-item-sources`."""

    cached_tokens: int
    cache_write_tokens: int
    image_tokens: int
    video_tokens: int
    item_sources: list[ItemSource] = may_be_absent()


class OutputTokensDetails(AnswerModel):
    reasoning_tokens: int


class ResponseUsage(AnswerModel):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class EchoedReasoning(AnswerModel):
    effort: Effort | None
    summary: str | None


class EchoedFormat(AnswerModel):
    type: Literal["text", "json_object"]


class EchoedSchema(AnswerModel):
    type: Literal["json_schema"]
    name: str
    description: str | None
    json_schema: dict[str, Any] | bool | None = Field(alias="schema")
    strict: bool | None


class EchoedText(AnswerModel):
    format: Annotated[EchoedFormat | EchoedSchema, Field(discriminator="type")]
    verbosity: Literal["medium"]


class EchoedChoice(AnswerModel):
    type: Literal["function"]
    name: str


class EchoedTool(AnswerModel):
    type: Literal["function"]
    name: str
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool | None


class EchoedRequest(AnswerModel):
    """What a response says again of its request."""

    instructions: str | None
    max_output_tokens: int | None
    previous_response_id: str | None
    prompt_cache_key: str | None
    safety_identifier: str | None
    temperature: float | None
    top_p: float | None
    user: str | None
    background: Literal[False]
    max_tool_calls: None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    reasoning: EchoedReasoning
    service_tier: Literal["default"]
    text: EchoedText
    tool_choice: Literal["none", "auto", "required"] | EchoedChoice
    tools: list[EchoedTool]
    top_logprobs: int
    truncation: Literal["disabled"]


class IncompleteDetails(AnswerModel):
    reason: Literal["max_output_tokens"]


class ResponseError(AnswerModel):
    code: Literal["server_error"]
    message: str


class ResponseHead(EchoedRequest):
    """Times are in seconds since 1970. `store` says whether the response is kept."""

    id: str
    object: Literal["response"]
    created_at: int
    model: str
    store: bool
    output: list[OutputItem]


class FinishedResponse(ResponseHead):
    status: Literal["completed", "incomplete"]
    usage: ResponseUsage
    error: None
    incomplete_details: IncompleteDetails | None
    completed_at: int | None


class InputText(AnswerModel):
    type: Literal["input_text"]
    text: str


class InputImage(AnswerModel):
    type: Literal["input_image"]
    image_url: str
    detail: Literal["auto"]


class InputVideo(AnswerModel):
    type: Literal["input_video"]
    video_url: str


KeptPart = Annotated[InputText | InputImage | InputVideo, Field(discriminator="type")]


class KeptMessageItem(AnswerModel):
    id: str
    type: Literal["message"]
    role: Literal["user", "system", "developer"]
    content: list[KeptPart]
    status: Literal["completed"]


class KeptResultItem(AnswerModel):
    id: str
    type: Literal["function_call_output"]
    call_id: str
    output: str | list[KeptPart]
    status: Literal["completed"]


class ItemList(AnswerModel):
    """A page of the conversation that a response answers."""

    object: Literal["list"]
    data: list[OutputItem | KeptMessageItem | KeptResultItem]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedResponse(AnswerModel):
    id: str
    object: Literal["response"]
    deleted: Literal[True]
