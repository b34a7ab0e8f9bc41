"""The body of `POST /v1/responses`; `server.responses.translation` makes a chat request of it."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, WithJsonSchema

from server.body import (
    MAX_MESSAGES,
    STR_OR_LIST,
    BodyModel,
    Identifier,
    MediaUrl,
    by_type,
    unsupported,
)
from server.content_parts import ImageOptions, MmProcessorKwargs, VideoOptions
from server.drawing import MAX_LOGPROBS, Drawing
from server.protocol import (
    MAX_TOOLS,
    ChatTemplateKwargs,
    FunctionDefinition,
    FunctionName,
    JsonObjectFormat,
    Metadata,
    NamedSchema,
    Reasoning,
    TextFormat,
    tag_choice,
)

LOGPROBS_INCLUDED = "message.output_text.logprobs"


class InputTextPart(BodyModel):
    type: Literal["input_text"]
    text: str


class InputImagePart(ImageOptions):
    """`detail` has no effect: `max_pixels` says the same with a number."""

    type: Literal["input_image"]
    image_url: MediaUrl
    detail: Literal["auto", "low", "high", "original"] | None = None
    file_id: Annotated[Any, unsupported()] = None


class InputVideoPart(VideoOptions):
    """Not OpenAI's, which has no videos."""

    type: Literal["input_video"]
    video_url: MediaUrl


class OutputTextPart(BodyModel):
    type: Literal["output_text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class RefusalPart(BodyModel):
    type: Literal["refusal"]
    refusal: str


InputPart = Annotated[
    Annotated[InputTextPart, Tag("<input_text>")]
    | Annotated[InputImagePart, Tag("<input_image>")]
    | Annotated[InputVideoPart, Tag("<input_video>")],
    by_type("input_text", "input_image", "input_video"),
]
OutputPart = Annotated[
    Annotated[OutputTextPart, Tag("<output_text>")]
    | Annotated[RefusalPart, Tag("<refusal>")]
    | Annotated[InputTextPart, Tag("<input_text>")],
    by_type("output_text", "refusal", "input_text"),
]
InputTexts = Annotated[list[InputTextPart], Field(min_length=1, fail_fast=True)]
InputParts = Annotated[list[InputPart], Field(min_length=1, fail_fast=True)]
ResultParts = Annotated[list[InputPart], Field(fail_fast=True)]
OutputParts = Annotated[list[OutputPart], Field(fail_fast=True)]


class Item(BodyModel):
    """What every item of an answer has when it is given back; without effect."""

    id: Identifier | None = None
    status: Identifier | None = None


class SystemItem(Item):
    type: Literal["message"] | None = None
    role: Literal["system", "developer"]
    content: Annotated[
        Annotated[str, Tag("<str>")] | Annotated[InputTexts, Tag("<list>")], STR_OR_LIST
    ]


class UserItem(Item):
    type: Literal["message"] | None = None
    role: Literal["user"]
    content: Annotated[
        Annotated[str, Tag("<str>")] | Annotated[InputParts, Tag("<list>")], STR_OR_LIST
    ]


class AssistantItem(Item):
    type: Literal["message"] | None = None
    role: Literal["assistant"]
    content: Annotated[
        Annotated[str, Tag("<str>")] | Annotated[OutputParts, Tag("<list>")], STR_OR_LIST
    ]
    phase: Identifier | None = None


class SummaryPart(BodyModel):
    type: Literal["summary_text"]
    text: str


class ReasoningPart(BodyModel):
    type: Literal["reasoning_text"]
    text: str


class ReasoningItem(Item):
    """`encrypted_content` is never given out here, and has no effect."""

    type: Literal["reasoning"]
    summary: Annotated[list[SummaryPart], Field(fail_fast=True)] | None = None
    content: Annotated[list[ReasoningPart], Field(fail_fast=True)] | None = None
    encrypted_content: str | None = None


class FunctionCallItem(Item):
    type: Literal["function_call"]
    call_id: Identifier
    name: FunctionName
    arguments: str
    namespace: Annotated[Any, unsupported()] = None


class FunctionCallOutputItem(Item):
    type: Literal["function_call_output"]
    call_id: Identifier
    output: Annotated[
        Annotated[str, Tag("<str>")] | Annotated[ResultParts, Tag("<list>")], STR_OR_LIST
    ]


class ItemReference(BodyModel):
    # Without a type, what has a role is a message.
    model_config = ConfigDict(
        json_schema_extra={"not": {"properties": {"type": {"const": None}}, "required": ["role"]}}
    )

    type: Literal["item_reference"] | None = None
    id: Identifier


def _tag_item(value: object) -> str | None:
    """Items without a type are messages, which have a role, or references."""
    if not isinstance(value, dict):
        return None
    kind = value.get("type")
    if kind is None:
        kind = "message" if "role" in value else "item_reference"
    if kind != "message":
        return f"<{kind}>"
    role = value.get("role")
    return "<system>" if role == "developer" else f"<{role}>"


InputItem = Annotated[
    Annotated[SystemItem, Tag("<system>")]
    | Annotated[UserItem, Tag("<user>")]
    | Annotated[AssistantItem, Tag("<assistant>")]
    | Annotated[ReasoningItem, Tag("<reasoning>")]
    | Annotated[FunctionCallItem, Tag("<function_call>")]
    | Annotated[FunctionCallOutputItem, Tag("<function_call_output>")]
    | Annotated[ItemReference, Tag("<item_reference>")],
    Discriminator(
        _tag_item,
        custom_error_type="item",
        custom_error_message="`type` must be one of: message (with the `role` user, assistant, "
        "system or developer), reasoning, function_call, function_call_output, item_reference",
    ),
]
InputItems = Annotated[
    list[InputItem], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)
]


class FunctionTool(FunctionDefinition):
    type: Literal["function"]


class HostedTool(BodyModel):
    """A tool that is no function; the translation refuses it by name."""

    type: Identifier


def _tag_tool(value: object) -> str:
    is_function = isinstance(value, dict) and value.get("type") == "function"
    return "<function>" if is_function else "<hosted>"


ResponsesTool = Annotated[
    Annotated[FunctionTool, Tag("<function>")]
    | Annotated[HostedTool, Tag("<hosted>"), WithJsonSchema(None)],
    Discriminator(_tag_tool),
]


class FunctionChoice(BodyModel):
    type: Literal["function"]
    name: FunctionName


FunctionToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<str>")]
    | Annotated[FunctionChoice, Tag("<function>")],
    Discriminator(tag_choice),
]


class JsonSchemaTextFormat(NamedSchema):
    type: Literal["json_schema"]


class TextOptions(BodyModel):
    format: (
        Annotated[
            Annotated[TextFormat, Tag("<text>")]
            | Annotated[JsonObjectFormat, Tag("<json_object>")]
            | Annotated[JsonSchemaTextFormat, Tag("<json_schema>")],
            by_type("text", "json_object", "json_schema"),
        ]
        | None
    ) = None
    verbosity: Annotated[Any, unsupported("medium")] = None


class ReasoningOptions(Reasoning):
    """No summaries are made: the reasoning itself is in the answer."""

    generate_summary: Identifier | None = None
    context: Annotated[Any, unsupported("auto", "current_turn")] = None
    mode: Annotated[Any, unsupported("standard")] = None


Include = Literal[
    "message.output_text.logprobs",
    # without effect
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
]


class ResponsesRequest(Drawing):
    model: Identifier
    input: Annotated[
        Annotated[str, Tag("<str>")] | Annotated[InputItems, Tag("<list>")], STR_OR_LIST
    ]
    instructions: str | None = None
    previous_response_id: Identifier | None = None
    store: bool | None = Field(default=None, description="true if the server keeps responses")

    tools: Annotated[list[ResponsesTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: FunctionToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    include: Annotated[list[Include], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)

    # not OpenAI's
    mm_processor_kwargs: MmProcessorKwargs | None = None
    chat_template_kwargs: ChatTemplateKwargs | None = None
    enable_thinking: bool | None = None
    thinking_budget: int | None = Field(default=None, ge=0, description="tokens")

    # without effect
    metadata: Metadata | None = None
    prompt_cache_key: Identifier | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: Identifier | None = None
    safety_identifier: Identifier | None = None
    service_tier: Identifier | None = None
    user: Identifier | None = None

    background: Annotated[Any, unsupported(False)] = None
    context_management: Annotated[Any, unsupported([])] = None
    conversation: Annotated[Any, unsupported()] = None
    max_tokens: Annotated[Any, unsupported()] = None  # OpenAI's name here is `max_output_tokens`
    max_tool_calls: Annotated[Any, unsupported()] = None
    moderation: Annotated[Any, unsupported()] = None
    n: Annotated[Any, unsupported(1)] = None
    prompt: Annotated[Any, unsupported()] = None
    truncation: Annotated[Any, unsupported("disabled")] = None

    @property
    def token_limit(self) -> int | None:
        return self.max_output_tokens

    @property
    def includes_logprobs(self) -> bool:
        """`top_logprobs` alone gives none, as with OpenAI."""
        return LOGPROBS_INCLUDED in (self.include or ())
