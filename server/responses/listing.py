"""What a kept response answers, as the items of a list."""

from collections.abc import Iterator, Sequence
from typing import Any

from server.body_data_url import BodyDataUrl
from server.content_parts import ImageUrlPart, Part, TextPart, VideoUrlPart
from server.protocol import AssistantMessage, Message, ToolMessage
from server.responses.items import describe_call, describe_message, describe_reasoning


def list_items(messages: Sequence[Message], response_id: str) -> list[dict[str, Any]]:
    """The messages as items. Their ids are the same every time."""
    stem = response_id.partition("_")[2]
    items = [item for message in messages for item in _iterate_items(message)]
    for index, item in enumerate(items):
        item["id"] = f"{item['id']}_{stem}_{index}"
    return items


def _iterate_items(message: Message) -> Iterator[dict[str, Any]]:
    """Items whose `id` is only its prefix."""
    if isinstance(message, AssistantMessage):
        yield from _iterate_answer(message)
        return
    content = message.content
    if isinstance(message, ToolMessage):
        yield {
            "id": "fco",
            "type": "function_call_output",
            "call_id": message.tool_call_id,
            "output": content if isinstance(content, str) else _describe_parts(content),
            "status": "completed",
        }
        return
    parts = [TextPart(type="text", text=content)] if isinstance(content, str) else content
    yield {
        "id": "msg",
        "type": "message",
        "role": message.role,
        "content": _describe_parts(parts),
        "status": "completed",
    }


def _iterate_answer(message: AssistantMessage) -> Iterator[dict[str, Any]]:
    if message.reasoning_content:
        yield describe_reasoning("rs", message.reasoning_content, "completed")
    if isinstance(message.content, str):
        yield describe_message("msg", message.content, "completed")
    for call in message.tool_calls or ():
        function = call.function
        yield describe_call("fc", call.id, function.name, function.arguments, "completed")


def _describe_parts(parts: Sequence[Part]) -> list[dict[str, Any]]:
    return [_describe_part(part) for part in parts]


def _describe_part(part: Part) -> dict[str, Any]:
    match part:
        case TextPart(text=text):
            return {"type": "input_text", "text": text}
        case ImageUrlPart(image_url=image):
            url = _write_url(image.url)
            return {"type": "input_image", "image_url": url, "detail": "auto"}
        case VideoUrlPart(video_url=video):
            return {"type": "input_video", "video_url": _write_url(video.url)}
        case _:
            raise AssertionError(f"the translation makes no `{part.type}`")


def _write_url(url: str) -> str:
    return url + (url.parse_payload() or "") if isinstance(url, BodyDataUrl) else url
