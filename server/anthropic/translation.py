"""Anthropic's body -> the request that the core takes, and the names of its fields there."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from server.anthropic.conversation import AnthropicConversation
from server.anthropic.protocol import (
    AssistantTurn,
    JsonFormat,
    MessagesRequest,
    ToolChoice,
    UserTurn,
)
from server.body import MAX_MESSAGES
from server.errors import InvalidRequest
from server.protocol import (
    ChatCompletionRequest,
    FunctionDefinition,
    JsonSchemaFormat,
    Message,
    NamedFunction,
    NamedSchema,
    NamedToolChoice,
    Tool,
)

_CHOICES: dict[str, Literal["none", "auto", "required"]] = {
    "auto": "auto",
    "any": "required",
    "none": "none",
}
_FIELD_NAMES = {
    "stop": "stop_sequences",
    "tool_choice.function.name": "tool_choice.name",
}


@dataclass(frozen=True, slots=True)
class Translation:
    """`field_names`: what the core calls a field -> what the body calls it, where they differ."""

    request: ChatCompletionRequest
    field_names: Mapping[str, str]


def translate(body: MessagesRequest) -> Translation:
    """Anthropic's request as a chat request. Raises: InvalidRequest."""
    conversation = AnthropicConversation()
    if body.system is not None:
        conversation.add_system(body.system)
    for index, turn in enumerate(body.messages):
        if isinstance(turn, UserTurn):
            conversation.add_user(turn, f"messages[{index}]")
        elif isinstance(turn, AssistantTurn):
            conversation.add_assistant(turn, f"messages[{index}]")
        else:
            conversation.add_system(turn.content)
    _check_length(conversation.messages)
    choice, wanted = body.tool_choice, _find_format(body)
    request = ChatCompletionRequest(
        **body.given_drawing() | {"stop": body.stop_sequences},
        model=body.model,
        messages=conversation.messages,
        mm_processor_kwargs=body.mm_processor_kwargs,
        chat_template_kwargs=body.chat_template_kwargs,
        thinking=body.thinking,
        tools=None if body.tools is None else list(_iterate_tools(body)),
        tool_choice=None if choice is None else _translate_choice(choice),
        parallel_tool_calls=False if choice and choice.disable_parallel_tool_use else None,
        response_format=None if wanted is None else _translate_format(wanted),
    )
    return Translation(request, _name_format(body) | _FIELD_NAMES | conversation.field_names)


def _check_length(messages: Sequence[Message]) -> None:
    if not 1 <= len(messages) <= MAX_MESSAGES:
        raise InvalidRequest(
            f"`messages` must make 1 to {MAX_MESSAGES} messages, where each `tool_result` is one "
            f"(given: {len(messages)})",
            "invalid_value",
            "messages",
        )


def _iterate_tools(body: MessagesRequest) -> Iterator[Tool]:
    for tool in body.tools or ():
        function = FunctionDefinition(
            name=tool.name,
            description=tool.description,
            parameters=tool.input_schema,
            strict=tool.strict,
        )
        yield Tool(type="function", function=function)


def _translate_choice(
    choice: ToolChoice,
) -> Literal["none", "auto", "required"] | NamedToolChoice:
    if choice.name is not None and choice.type == "tool":
        return NamedToolChoice(type="function", function=NamedFunction(name=choice.name))
    return _CHOICES[choice.type]


def _find_format(body: MessagesRequest) -> JsonFormat | None:
    return body.output_format or (body.output_config.format if body.output_config else None)


def _name_format(body: MessagesRequest) -> dict[str, str]:
    name = "output_config.format" if body.output_format is None else "output_format"
    return {"response_format": name, "response_format.json_schema.schema": f"{name}.schema"}


def _translate_format(wanted: JsonFormat) -> JsonSchemaFormat:
    schema = NamedSchema(name="answer", schema=wanted.json_schema)
    return JsonSchemaFormat(type="json_schema", json_schema=schema)
