"""The turns of Anthropic's body -> the core's messages, and where in the body their parts are."""

from collections.abc import Iterable, Sequence

import orjson

from server.anthropic.content import (
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
from server.anthropic.protocol import AssistantTurn, UserTurn
from server.content_parts import (
    ImageUrl,
    ImageUrlPart,
    Part,
    TextPart,
    VideoUrl,
    VideoUrlPart,
)
from server.errors import InvalidRequest
from server.protocol import (
    MAX_TOOLS,
    AssistantMessage,
    CalledFunction,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)

# Claude Code's first system block says who pays. It is another one in every request, so that no
# prompt would begin like the one before.
_BILLING_PREFIX = "x-anthropic-billing-header:"
_ERROR_PREFIX = "Error: "


class AnthropicConversation:
    """Collects the messages.

    Attributes:
        field_names: see `server.anthropic.translation.Translation`.
    """

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

    def add_assistant(self, turn: AssistantTurn, param: str) -> None:
        if isinstance(turn.content, str):
            self.messages.append(AssistantMessage(role="assistant", content=turn.content))
            return
        text: list[str] = []
        thinking: list[str] = []
        calls: list[ToolCall] = []
        for number, block in enumerate(turn.content):
            if isinstance(block, TextBlock):
                text.append(block.text)
            elif isinstance(block, ThinkingBlock):
                thinking.append(block.thinking)
            elif isinstance(block, ToolUseBlock):
                calls.append(_translate_call(block, f"{param}.content[{number}]"))
        _check_calls(calls, f"{param}.content")
        message = AssistantMessage(
            role="assistant",
            content="".join(text),
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


def _translate_call(block: ToolUseBlock, param: str) -> ToolCall:
    try:
        arguments = orjson.dumps(block.input).decode()
    except orjson.JSONEncodeError:
        param = f"{param}.input"
        message = f"`{param}` is nested too deeply"
        raise InvalidRequest(message, "too_complex", param) from None
    return ToolCall(id=block.id, function=CalledFunction(name=block.name, arguments=arguments))


def _check_calls(calls: Sequence[ToolCall], param: str) -> None:
    if len(calls) > MAX_TOOLS:
        raise InvalidRequest(
            f"`{param}` has {len(calls)} calls; at most {MAX_TOOLS}", "too_complex", param
        )
