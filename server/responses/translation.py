"""A body of the Responses API -> the request that the server's core takes."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from server.body import MAX_MESSAGES
from server.errors import InvalidRequest
from server.protocol import (
    MAX_TOOLS,
    AssistantMessage,
    ChatCompletionRequest,
    JsonSchemaFormat,
    Message,
    NamedFunction,
    NamedToolChoice,
    ResponseFormat,
    SystemMessage,
    Tool,
)
from server.responses.conversation import FindItem, ResponsesConversation
from server.responses.protocol import (
    FunctionChoice,
    HostedTool,
    JsonSchemaTextFormat,
    ResponsesRequest,
    ResponsesTool,
)

_TYPE_NAME = re.compile(r"[a-z0-9_]{1,40}")
_FIELD_NAMES = {
    "messages": "input",
    "response_format": "text.format",
    "response_format.json_schema.schema": "text.format.schema",
    "tool_choice.function.name": "tool_choice.name",
}


@dataclass(frozen=True, slots=True)
class Translation:
    """A request in the core's terms.

    Attributes:
        field_names: what the core calls a field -> what the body calls it, where they differ.
        num_instructions: messages at the beginning that are of this request only.
    """

    request: ChatCompletionRequest
    field_names: Mapping[str, str]
    num_instructions: int

    @property
    def conversation(self) -> tuple[Message, ...]:
        """What a later request may go on with, but for the answer."""
        return tuple(self.request.messages[self.num_instructions :])


def translate(
    body: ResponsesRequest,
    history: Sequence[Message],
    find_item: FindItem,
    *,
    detaches: bool,
) -> Translation:
    """The body as a chat request.

    Args:
        history: the conversation that the input goes on with.
        find_item: see `ResponsesConversation`.
        detaches: whether data URLs are copied out of the body, so that it need not be kept.
    Raises: InvalidRequest.
    """
    conversation = ResponsesConversation(find_item, detaches=detaches)
    conversation.add_history(history)
    if isinstance(body.input, str):
        conversation.add_text(body.input, "input")
    else:
        for index, item in enumerate(body.input):
            conversation.add(item, f"input[{index}]")
    conversation.close()
    instructions = _describe_instructions(body)
    names = conversation.name_fields(len(instructions))
    messages = [*instructions, *conversation.messages]
    _check_lengths(messages)
    request = _translate_request(body, messages)
    return Translation(request, _FIELD_NAMES | names, len(instructions))


def _check_lengths(messages: Sequence[Message]) -> None:
    """The core's limits, which items do not have by themselves."""
    if len(messages) > MAX_MESSAGES:
        raise InvalidRequest(
            f"`input`, `instructions` and the conversation of `previous_response_id` have "
            f"{len(messages)} messages together; at most {MAX_MESSAGES}",
            "too_complex",
            "input",
        )
    calls = (m.tool_calls for m in messages if isinstance(m, AssistantMessage) and m.tool_calls)
    most = max(map(len, calls), default=0)
    if most > MAX_TOOLS:
        raise InvalidRequest(
            f"`input` has {most} items `function_call` in a row; at most {MAX_TOOLS}",
            "too_complex",
            "input",
        )


def _describe_instructions(body: ResponsesRequest) -> list[Message]:
    if not body.instructions:
        return []
    return [SystemMessage(role="system", content=body.instructions)]


def _translate_request(body: ResponsesRequest, messages: list[Message]) -> ChatCompletionRequest:
    choice = _translate_choice(body)
    includes_logprobs = body.includes_logprobs
    return ChatCompletionRequest(
        **body.given_drawing(),
        model=body.model,
        messages=messages,
        max_completion_tokens=body.max_output_tokens,
        logprobs=includes_logprobs,
        top_logprobs=body.top_logprobs if includes_logprobs else None,
        mm_processor_kwargs=body.mm_processor_kwargs,
        chat_template_kwargs=body.chat_template_kwargs,
        enable_thinking=body.enable_thinking,
        thinking_budget=body.thinking_budget,
        reasoning=body.reasoning,
        tools=None if body.tools is None else _translate_tools(body.tools),
        tool_choice=choice,
        parallel_tool_calls=body.parallel_tool_calls,
        response_format=_translate_format(body, choice),
    )


def _translate_tools(tools: Iterable[ResponsesTool]) -> list[Tool]:
    """Raises: InvalidRequest for a tool that only OpenAI's servers have."""
    translated = []
    for index, tool in enumerate(tools):
        if isinstance(tool, HostedTool):
            name = f"`{tool.type}`" if _TYPE_NAME.fullmatch(tool.type) else "this type"
            param = f"tools[{index}].type"
            raise InvalidRequest(
                f"`{param}`: tools of {name} are not supported; only `function` is",
                "unsupported_parameter",
                param,
            )
        translated.append(Tool(type="function", function=tool))
    return translated


def _translate_choice(
    body: ResponsesRequest,
) -> Literal["none", "auto", "required"] | NamedToolChoice | None:
    choice = body.tool_choice
    if isinstance(choice, FunctionChoice):
        return NamedToolChoice(type="function", function=NamedFunction(name=choice.name))
    return choice


def _translate_format(
    body: ResponsesRequest, choice: str | NamedToolChoice | None
) -> ResponseFormat | None:
    """The format of the answer's text. A forced call leaves none, and clients send both."""
    wanted = body.text.format if body.text else None
    if choice == "required" or isinstance(choice, NamedToolChoice):
        return None
    if isinstance(wanted, JsonSchemaTextFormat):
        return JsonSchemaFormat(type="json_schema", json_schema=wanted)
    return wanted
