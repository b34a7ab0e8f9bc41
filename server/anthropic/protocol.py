"""The body of Anthropic's `POST /v1/messages`, and of `/v1/messages/count_tokens`."""

from functools import partial
from typing import Annotated, Any, Literal, Never

from pydantic import (
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    Tag,
    WithJsonSchema,
    model_validator,
)
from pydantic.config import JsonValue

from server.anthropic.content import (
    AssistantBlock,
    SystemContent,
    UserBlock,
    by_type_or_other,
    refuse_type,
)
from server.body import MAX_MESSAGES, STR_OR_LIST, BodyModel, Identifier, by_role, unsupported
from server.content_parts import MmProcessorKwargs
from server.drawing import MAX_STOP_CHARS, MAX_STOP_STRINGS, Drawing
from server.nesting import JsonObject
from server.protocol import MAX_TOOLS, AnthropicThinking, ChatTemplateKwargs, FunctionName

StopSequence = Annotated[str, StringConstraints(min_length=1, max_length=MAX_STOP_CHARS)]


class UserTurn(BodyModel):
    role: Literal["user"]
    content: Annotated[
        Annotated[str, Tag("<str>")]
        | Annotated[list[UserBlock], Field(min_length=1, fail_fast=True), Tag("<list>")],
        STR_OR_LIST,
    ]


class AssistantTurn(BodyModel):
    """An answer may have been empty, so this may be, too."""

    role: Literal["assistant"]
    content: Annotated[
        Annotated[str, Tag("<str>")]
        | Annotated[list[AssistantBlock], Field(fail_fast=True), Tag("<list>")],
        STR_OR_LIST,
    ]


class SystemTurn(BodyModel):
    """Instructions that come later in the conversation."""

    role: Literal["system"]
    content: SystemContent


Turn = Annotated[
    Annotated[UserTurn, Tag("<user>")]
    | Annotated[AssistantTurn, Tag("<assistant>")]
    | Annotated[SystemTurn, Tag("<system>")],
    by_role("user", "assistant", "system"),
]


class CustomTool(BodyModel):
    type: Literal["custom"] | None = None
    name: FunctionName
    description: str | None = None
    input_schema: JsonObject
    strict: bool | None = None
    cache_control: Any = None
    eager_input_streaming: Any = None
    input_examples: Any = None
    allowed_callers: Annotated[Any, unsupported([], ["direct"])] = None
    defer_loading: Annotated[Any, unsupported(False)] = None


# Tools that Anthropic runs, or whose schema only its models know.
OtherTool = Annotated[
    Never,
    PlainValidator(partial(refuse_type, "tools")),
    Tag("<other>"),
    WithJsonSchema(None),  # no client should know of it
]
ToolDefinition = Annotated[
    Annotated[CustomTool, Tag("<custom>")] | OtherTool,
    by_type_or_other("custom", default="custom"),
]


_CHOICES: list[JsonValue] = [
    {"properties": {"type": {"enum": ["auto", "any", "none"]}}},
    {"properties": {"name": {"type": "string"}}, "required": ["name"]},
]


class ToolChoice(BodyModel):
    model_config = ConfigDict(json_schema_extra={"anyOf": _CHOICES})

    type: Literal["auto", "any", "tool", "none"]
    name: FunctionName | None = None
    disable_parallel_tool_use: bool | None = None

    @model_validator(mode="after")
    def _check_name(self) -> "ToolChoice":
        if self.type == "tool" and self.name is None:
            raise ValueError("`type`: tool needs `name`")
        return self


class JsonFormat(BodyModel):
    type: Literal["json_schema"]
    json_schema: JsonObject = Field(alias="schema")


class OutputConfig(BodyModel):
    """`effort` has no effect: how long to think is said by `thinking`."""

    format: JsonFormat | None = None
    effort: Any = None


class MessagesRequest(Drawing):
    """`max_tokens` is missing from a request that only counts."""

    model: Identifier
    messages: Annotated[list[Turn], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    system: SystemContent | None = None
    stop_sequences: Annotated[list[StopSequence], Field(max_length=MAX_STOP_STRINGS)] | None = None
    tools: Annotated[list[ToolDefinition], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: AnthropicThinking | None = None
    output_config: OutputConfig | None = None
    output_format: JsonFormat | None = Field(default=None, description="the older name")

    chat_template_kwargs: ChatTemplateKwargs | None = Field(default=None, description="ours")
    mm_processor_kwargs: MmProcessorKwargs | None = Field(default=None, description="ours")

    # without effect
    cache_control: Any = None
    metadata: Any = None
    service_tier: Any = None

    container: Annotated[Any, unsupported()] = None
    mcp_servers: Annotated[Any, unsupported([])] = None
    n: Annotated[Any, unsupported(1)] = None
    stop: Annotated[Any, unsupported()] = None
    stream_options: Annotated[Any, unsupported()] = None

    @model_validator(mode="after")
    def _check_formats(self) -> "MessagesRequest":
        if self.output_format is not None and self.output_config and self.output_config.format:
            raise ValueError("`output_format` and `output_config.format` are the same; give one")
        return self
