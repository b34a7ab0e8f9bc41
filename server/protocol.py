"""The body of `POST /v1/chat/completions`; the other endpoints translate theirs into it."""

from typing import Annotated, Any, Literal

import orjson
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    model_validator,
)

from server.body import MAX_MESSAGES, BodyModel, Identifier, by_role, by_type, unsupported
from server.content_parts import Content, MmProcessorKwargs, TextContent
from server.drawing import MAX_LOGPROBS, STREAM_RULE, Drawing
from server.nesting import JsonObject, check_nesting
from server.openapi.rule_schemas import needs, with_rules

MAX_TOOLS = 128
MAX_METADATA = 16  # pairs; this and the two lengths are OpenAI's
FunctionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,128}$")]


def _check_schema(value: object) -> object:
    if not isinstance(value, dict | bool | None):
        raise ValueError("must be a JSON schema, an object or a boolean")
    return check_nesting(value)


def check_arguments(text: str) -> str:
    """Raises: ValueError."""
    try:
        arguments = orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        arguments = None
    if not isinstance(arguments, dict):
        raise ValueError("must be the text of a JSON object")
    check_nesting(arguments)
    return text


def _check_schema_or_text(value: object) -> object:
    return value if isinstance(value, str) else _check_schema(value)


JsonSchema = Annotated[
    Any, BeforeValidator(_check_schema, json_schema_input_type=dict | bool | None)
]
JsonSchemaOrText = Annotated[
    Any, BeforeValidator(_check_schema_or_text, json_schema_input_type=dict | bool | str | None)
]
Choices = Annotated[list[str], Field(json_schema_extra={"minItems": 1})]
MetadataKey = Annotated[str, StringConstraints(max_length=64)]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=MAX_METADATA)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class SystemMessage(BodyModel):
    role: Literal["system", "developer"]
    content: TextContent
    name: Identifier | None = None


class UserMessage(BodyModel):
    role: Literal["user"]
    content: Content
    name: Identifier | None = None


class CalledFunction(BodyModel):
    """`arguments` is the JSON text of an object, as the model wrote it."""

    name: FunctionName
    arguments: Annotated[str, AfterValidator(check_arguments)]


class ToolCall(BodyModel):
    id: Identifier
    type: Literal["function"] = "function"
    function: CalledFunction


class AssistantMessage(BodyModel):
    """Clients send an answer back as they got it, with fields that are null or empty."""

    role: Literal["assistant"]
    content: TextContent | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOLS)] | None = None
    name: Identifier | None = None
    refusal: str | None = None
    annotations: Annotated[Any, unsupported([])] = None
    audio: Annotated[Any, unsupported()] = None
    function_call: Annotated[Any, unsupported()] = None


class ToolMessage(BodyModel):
    """The result of a call; it may hold images and videos."""

    role: Literal["tool"]
    content: Content
    tool_call_id: Identifier
    name: Identifier | None = None


Message = Annotated[
    Annotated[SystemMessage, Tag("<system>")]
    | Annotated[UserMessage, Tag("<user>")]
    | Annotated[AssistantMessage, Tag("<assistant>")]
    | Annotated[ToolMessage, Tag("<tool>")],
    by_role("system", "user", "assistant", "tool", developer="system"),
]


class FunctionDefinition(BodyModel):
    """`parameters` is a JSON schema; `strict` has it enforced wherever the function is called."""

    name: FunctionName
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class Tool(BodyModel):
    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(BodyModel):
    name: FunctionName


class NamedToolChoice(BodyModel):
    type: Literal["function"]
    function: NamedFunction


def tag_choice(value: object) -> str:
    return "<str>" if isinstance(value, str) else "<function>"


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<str>")]
    | Annotated[NamedToolChoice, Tag("<function>")],
    Discriminator(tag_choice),
]


class TextFormat(BodyModel):
    type: Literal["text"]


class JsonObjectFormat(BodyModel):
    type: Literal["json_object"]


class NamedSchema(BodyModel):
    """`strict` changes nothing: a schema is always enforced."""

    name: Identifier
    description: str | None = None
    json_schema: JsonSchema = Field(default=None, alias="schema")
    strict: bool | None = None


class JsonSchemaFormat(BodyModel):
    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[
    Annotated[TextFormat, Tag("<text>")]
    | Annotated[JsonObjectFormat, Tag("<json_object>")]
    | Annotated[JsonSchemaFormat, Tag("<json_schema>")],
    by_type("text", "json_object", "json_schema"),
]


class StructuredOutputs(BodyModel):
    """vLLM's way to constrain an answer; one of them. `json` may be the text of a schema."""

    json_schema: JsonSchemaOrText = Field(default=None, alias="json")
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: Annotated[Any, unsupported()] = None


class ChatTemplateKwargs(BodyModel):
    enable_thinking: bool | None = None


class Reasoning(BodyModel):
    """OpenRouter's and the Responses API's `reasoning`. `summary` has no effect."""

    effort: Effort | None = None
    max_tokens: int | None = Field(default=None, ge=0)
    enabled: bool | None = None
    summary: Identifier | None = None


class AnthropicThinking(BodyModel):
    """`display` has no effect: thinking is shown as it is."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = Field(default=None, ge=0)
    display: Identifier | None = None


class ChatCompletionRequest(Drawing):
    model_config = with_rules(stream_options=STREAM_RULE, top_logprobs=needs("logprobs"))

    model: Identifier
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    mm_processor_kwargs: MmProcessorKwargs | None = None
    chat_template_kwargs: ChatTemplateKwargs | None = None

    enable_thinking: bool | None = Field(default=None, description="DashScope's")
    thinking_budget: int | None = Field(default=None, ge=0, description="DashScope's; tokens")
    thinking_token_budget: int | None = Field(default=None, ge=0, description="vLLM's; tokens")
    reasoning_effort: Effort | None = None
    reasoning: Reasoning | None = None
    thinking: AnthropicThinking | None = None

    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: JsonSchemaOrText = Field(default=None, description="vLLM's older name")
    guided_regex: str | None = Field(default=None, description="vLLM's older name")
    guided_choice: Choices | None = Field(default=None, description="vLLM's older name")
    guided_grammar: str | None = Field(default=None, description="vLLM's older name")

    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)

    # without effect
    metadata: Metadata | None = None
    prompt_cache_key: Identifier | None = None
    prompt_cache_retention: Identifier | None = None
    safety_identifier: Identifier | None = None
    service_tier: Identifier | None = None
    store: bool | None = None
    user: Identifier | None = None

    add_generation_prompt: Annotated[Any, unsupported(True)] = None
    allowed_token_ids: Annotated[Any, unsupported()] = None
    audio: Annotated[Any, unsupported()] = None
    bad_words: Annotated[Any, unsupported([])] = None
    continue_final_message: Annotated[Any, unsupported(False)] = None
    documents: Annotated[Any, unsupported([])] = None
    echo: Annotated[Any, unsupported(False)] = None
    function_call: Annotated[Any, unsupported("none")] = None
    functions: Annotated[Any, unsupported([])] = None
    include_reasoning: Annotated[Any, unsupported(True)] = None
    modalities: Annotated[Any, unsupported(["text"])] = None
    prediction: Annotated[Any, unsupported()] = None
    prompt_logprobs: Annotated[Any, unsupported()] = None
    skip_special_tokens: Annotated[Any, unsupported(True)] = None
    truncate_prompt_tokens: Annotated[Any, unsupported()] = None
    use_beam_search: Annotated[Any, unsupported(False)] = None
    verbosity: Annotated[Any, unsupported("medium")] = None
    web_search_options: Annotated[Any, unsupported()] = None

    @model_validator(mode="after")
    def _check_combinations(self) -> "ChatCompletionRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("`top_logprobs` needs `logprobs`: true")
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise ValueError("`max_tokens` and `max_completion_tokens` differ; give one")
        return self

    @property
    def token_limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None
