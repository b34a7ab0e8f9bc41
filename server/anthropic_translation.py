"""Anthropic's body -> the request that the core takes, and the names of its fields there."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import orjson

from server.anthropic_content import (
    Base64Source,
    ImageBlock,
    PartBlock,
    SystemContent,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    VideoBlock,
)
from server.anthropic_protocol import (
    AssistantTurn,
    JsonFormat,
    MessagesRequest,
    ToolChoice,
    UserTurn,
)
from server.content_parts import (
    ImageUrl,
    ImageUrlPart,
    Part,
    TextPart,
    VideoUrl,
    VideoUrlPart,
)
from server.drawing import Drawing
from server.protocol import (
    AssistantMessage,
    CalledFunction,
    ChatCompletionRequest,
    FunctionDefinition,
    JsonSchemaFormat,
    Message,
    NamedFunction,
    NamedSchema,
    NamedToolChoice,
    SystemMessage,
    Tool,
    ToolCall,
    ToolMessage,
    UserMessage,
)

# Claude Code's first system block says who pays. It is another one in every request, so that no
# prompt would begin like the one before.
_BILLING_PREFIX = "x-anthropic-billing-header:"
_ERROR_PREFIX = "Error: "
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
    """Anthropic's request as a chat request."""
    conversation = _Conversation()
    if body.system is not None:
        conversation.add_system(body.system)
    for index, turn in enumerate(body.messages):
        if isinstance(turn, UserTurn):
            conversation.add_user(turn, f"messages[{index}]")
        elif isinstance(turn, AssistantTurn):
            conversation.add_assistant(turn)
        else:
            conversation.add_system(turn.content)
    drawing = {
        name: getattr(body, name) for name in Drawing.model_fields if name in body.model_fields_set
    }
    choice, wanted = body.tool_choice, _find_format(body)
    request = ChatCompletionRequest(
        **drawing | {"stop": body.stop_sequences},
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


class _Conversation:
    """Collects the core's messages, and where in the body their parts are."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.field_names: dict[str, str] = {}

    def add_system(self, content: SystemContent) -> None:
        if isinstance(content, str):
            self.messages.append(SystemMessage(role="system", content=content))
            return
        parts = [
            TextPart(type="text", text=block.text)
            for block in content
            if not block.text.startswith(_BILLING_PREFIX)
        ]
        if parts:
            self.messages.append(SystemMessage(role="system", content=parts))

    def add_user(self, turn: UserTurn, param: str) -> None:
        """Results become messages of their own; what stands between them stays there."""
        if isinstance(turn.content, str):
            self._add_user_message(turn.content, param)
            return
        run: list[tuple[str, PartBlock]] = []
        for number, block in enumerate(turn.content):
            place = f"{param}.content[{number}]"
            if not isinstance(block, ToolResultBlock):
                run.append((place, block))
                continue
            self._end_run(run, param)
            self._add_result(block, place)
        self._end_run(run, param)

    def add_assistant(self, turn: AssistantTurn) -> None:
        if isinstance(turn.content, str):
            self.messages.append(AssistantMessage(role="assistant", content=turn.content))
            return
        blocks = turn.content
        calls = [_translate_call(block) for block in blocks if isinstance(block, ToolUseBlock)]
        thinking = [block.thinking for block in blocks if isinstance(block, ThinkingBlock)]
        message = AssistantMessage(
            role="assistant",
            content="".join(block.text for block in blocks if isinstance(block, TextBlock)),
            reasoning_content="".join(thinking) or None,
            tool_calls=calls or None,
        )
        self.messages.append(message)

    def _end_run(self, run: list[tuple[str, PartBlock]], param: str) -> None:
        if run:
            self._add_user_message(self._make_parts(run), param)
            run.clear()

    def _add_user_message(self, content: str | list[Part], param: str) -> None:
        self.field_names[f"messages[{len(self.messages)}].content"] = f"{param}.content"
        self.messages.append(UserMessage(role="user", content=content))

    def _add_result(self, block: ToolResultBlock, place: str) -> None:
        content: str | list[Part]
        if isinstance(block.content, list):
            placed = ((f"{place}.content[{i}]", part) for i, part in enumerate(block.content))
            first = [TextPart(type="text", text=_ERROR_PREFIX)] if block.is_error else []
            content = self._make_parts(placed, first) or ""
        else:
            content = (_ERROR_PREFIX if block.is_error else "") + (block.content or "")
        message = ToolMessage(role="tool", content=content, tool_call_id=block.tool_use_id)
        self.messages.append(message)

    def _make_parts(
        self, placed: Iterable[tuple[str, PartBlock]], first: Iterable[Part] = ()
    ) -> list[Part]:
        """The parts of the next message."""
        parts = list(first)
        for place, block in placed:
            if isinstance(block, TextBlock):
                parts.append(TextPart(type="text", text=block.text))
                continue
            part, field = _translate_media(block)
            name = f"messages[{len(self.messages)}].content[{len(parts)}].{part.type}"
            self.field_names[name] = f"{place}.source.{field}"
            parts.append(part)
        return parts


def _translate_media(block: ImageBlock | VideoBlock) -> tuple[ImageUrlPart | VideoUrlPart, str]:
    """The part, and the field of the source that holds the media."""
    source = block.source
    if isinstance(source, Base64Source):
        url, field = f"data:{source.media_type};base64,{source.data}", "data"
    else:
        url, field = source.url, "url"
    # Validation would make a plain string of a `BodyDataUrl`, with its header only.
    if isinstance(block, ImageBlock):
        image_url = ImageUrl.model_construct(url=url)
        return ImageUrlPart.model_construct(type="image_url", image_url=image_url), field
    video_url = VideoUrl.model_construct(url=url)
    return VideoUrlPart.model_construct(type="video_url", video_url=video_url), field


def _translate_call(block: ToolUseBlock) -> ToolCall:
    arguments = orjson.dumps(block.input).decode()
    return ToolCall(id=block.id, function=CalledFunction(name=block.name, arguments=arguments))


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
