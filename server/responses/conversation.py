"""Items of the Responses API -> the core's messages.

An answer comes as several items: its reasoning, its text, its calls. They are one message here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from server.body_data_url import BodyDataUrl
from server.content_parts import (
    ImageOptions,
    ImageUrl,
    ImageUrlPart,
    Part,
    TextPart,
    VideoOptions,
    VideoUrl,
    VideoUrlPart,
)
from server.errors import InvalidRequest
from server.protocol import (
    AssistantMessage,
    CalledFunction,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
    check_arguments,
)
from server.responses.protocol import (
    AssistantItem,
    FunctionCallItem,
    FunctionCallOutputItem,
    InputImagePart,
    InputItem,
    InputPart,
    InputTextPart,
    InputVideoPart,
    ItemReference,
    ReasoningItem,
    RefusalPart,
    SystemItem,
    UserItem,
)

HISTORY_FIELD = "previous_response_id"

FindItem = Callable[[str, str], InputItem]
_ITEM: TypeAdapter[InputItem] = TypeAdapter(InputItem)


@dataclass(slots=True)
class _Draft:
    """An assistant message whose items may go on."""

    reasoning: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    has_broken_call: bool = False

    @property
    def goes_on(self) -> bool:
        """Whether more text is of the same answer: behind a text it is not, behind a call it is."""
        return bool(self.calls) or self.has_broken_call or not self.texts


class ResponsesConversation:
    """Collects messages, and what the body calls them.

    Args:
        find_item: the item of an earlier answer, by its id and the name of the field that has it.
            Raises: InvalidRequest if there is none.
        detaches: whether data URLs are copied out of the body.
    """

    def __init__(self, find_item: FindItem, *, detaches: bool) -> None:
        self.messages: list[Message] = []
        self._fields: list[str] = []  # of the content of each message
        self._find_item = find_item
        self._detaches = detaches
        self._draft: _Draft | None = None

    def add_history(self, messages: Sequence[Message]) -> None:
        self.messages += messages
        self._fields += [HISTORY_FIELD] * len(messages)

    def add_text(self, text: str, field_name: str) -> None:
        """A message of the user."""
        self._add(UserMessage(role="user", content=text), field_name)

    def add(self, item: InputItem, param: str) -> None:
        """Raises: InvalidRequest."""
        match item:
            case ItemReference():
                self.add(self._find_item(item.id, param), param)
            case ReasoningItem():
                self._find_draft().reasoning.append(_join_reasoning(item))
            case AssistantItem():
                self._find_draft().texts.append(_join_answer(item))
            case FunctionCallItem():
                self._add_call(item, param)
            case FunctionCallOutputItem():
                content = self._make_content(item.output) or ""
                message = ToolMessage(role="tool", content=content, tool_call_id=item.call_id)
                self._add(message, f"{param}.output")
            case SystemItem():
                text = _join_texts(item.content)
                self._add(SystemMessage(role=item.role, content=text), f"{param}.content")
            case UserItem():
                content = self._make_content(item.content)
                self._add(UserMessage(role="user", content=content), f"{param}.content")

    def close(self) -> None:
        """End the message that is open."""
        draft, self._draft = self._draft, None
        if draft is None:
            return
        # Not validated: the limits of a body do not hold for what a model wrote.
        message = AssistantMessage.model_construct(
            role="assistant",
            content="".join(draft.texts) if draft.texts else None,
            reasoning_content="\n\n".join(filter(None, draft.reasoning)) or None,
            tool_calls=draft.calls or None,
        )
        self.messages.append(message)
        self._fields.append("input")

    def name_fields(self, offset: int) -> dict[str, str]:
        """What the core calls a field -> its name in the body.

        Args:
            offset: messages that stand before these.
        """
        names: dict[str, str] = {}
        for index, (message, body_field) in enumerate(
            zip(self.messages, self._fields, strict=True)
        ):
            name = f"messages[{index + offset}].content"
            names[name] = body_field
            if isinstance(message.content, list):
                for number, part in enumerate(message.content):
                    place = f"[{number}].{part.type}" if body_field != HISTORY_FIELD else ""
                    names[f"{name}[{number}].{part.type}"] = body_field + place
        return names

    def _add(self, message: Message, field_name: str) -> None:
        self.close()
        self.messages.append(message)
        self._fields.append(field_name)

    def _find_draft(self) -> _Draft:
        """The draft that takes more reasoning or text."""
        if self._draft is not None and not self._draft.goes_on:
            self.close()
        self._draft = self._draft or _Draft()
        return self._draft

    def _add_call(self, item: FunctionCallItem, param: str) -> None:
        """A call that broke off is left out: the answer has its text once more, as text."""
        self._draft = self._draft or _Draft()
        if item.status == "incomplete":
            self._draft.has_broken_call = True
            return
        try:
            check_arguments(item.arguments)
        except ValueError as error:
            param = f"{param}.arguments"
            raise InvalidRequest(f"`{param}` {error}", "invalid_value", param) from None
        function = CalledFunction(name=item.name, arguments=item.arguments)
        self._draft.calls.append(ToolCall(id=item.call_id, function=function))

    def _make_content(self, content: str | list[InputPart]) -> str | list[Part]:
        return content if isinstance(content, str) else [self._make_part(part) for part in content]

    def _make_part(self, part: InputPart) -> Part:
        # Validation would make a plain string of a `BodyDataUrl`, with its header only.
        match part:
            case InputTextPart():
                return TextPart(type="text", text=part.text)
            case InputImagePart():
                options = {name: getattr(part, name) for name in ImageOptions.model_fields}
                image = ImageUrl.model_construct(url=self._keep(part.image_url), **options)
                return ImageUrlPart.model_construct(type="image_url", image_url=image)
            case InputVideoPart():
                options = {name: getattr(part, name) for name in VideoOptions.model_fields}
                video = VideoUrl.model_construct(url=self._keep(part.video_url), **options)
                return VideoUrlPart.model_construct(type="video_url", video_url=video)

    def _keep(self, url: str) -> str:
        if self._detaches and isinstance(url, BodyDataUrl):
            return BodyDataUrl(str(url), memoryview(bytes(url.payload)))
        return url


def read_item(described: Mapping[str, Any]) -> InputItem:
    """An output item as one of the input."""
    return _ITEM.validate_python(described)


def read_answer(output: Iterable[Mapping[str, Any]]) -> Message:
    """The output items of one answer as one message."""
    conversation = ResponsesConversation(_refuse_reference, detaches=False)
    for described in output:
        conversation.add(read_item(described), "output")
    conversation.close()
    if not conversation.messages:  # it was cut before it said anything
        return AssistantMessage(role="assistant", content="")
    (message,) = conversation.messages
    return message


def _refuse_reference(item_id: str, param: str) -> InputItem:
    raise AssertionError("answers have no references")


def _join_reasoning(item: ReasoningItem) -> str:
    """The reasoning itself, or what is said of it."""
    return "".join(part.text for part in item.content or item.summary or ())


def _join_answer(item: AssistantItem) -> str:
    if isinstance(item.content, str):
        return item.content
    return "".join(
        part.refusal if isinstance(part, RefusalPart) else part.text for part in item.content
    )


def _join_texts(content: str | list[InputTextPart]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)
