"""Messages of a request -> what the chat template takes, and the media in prompt order.

The template sees where an image or a video stands, never its URL; the media path sees URLs and
options, never a message.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import orjson

from multimodal.options import MediaOptions
from server.content_parts import (
    ImageOptions,
    ImagePart,
    ImageUrlPart,
    MediaPart,
    MmProcessorKwargs,
    Part,
    TextPart,
    VideoOptions,
    VideoUrlPart,
)
from server.errors import InvalidRequest
from server.protocol import (
    AssistantMessage,
    ChatCompletionRequest,
    Message,
    Tool,
    ToolCall,
    ToolMessage,
)

OPTION_NAMES = tuple(field.name for field in fields(MediaOptions))
FRAMES_URL_PREFIX = "data:video/jpeg"
IMAGE_OPTION_NAMES = ("min_pixels", "max_pixels")


@dataclass(frozen=True, slots=True)
class MediaSource:
    """A media part, not fetched yet. `urls` has one entry, or one for each frame of `frames`."""

    kind: Literal["image", "video", "frames"]
    urls: tuple[str, ...]
    options: MediaOptions
    param: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Template-ready messages; one media source for each image and video in them, in order.

    `tools` are the functions that the model is told of.
    """

    messages: list[dict[str, Any]]
    media: tuple[MediaSource, ...]
    tools: tuple[dict[str, Any], ...] = ()


def build_conversation(request: ChatCompletionRequest) -> Conversation:
    """Raises: InvalidRequest for options that do not fit the media they are applied to."""
    shared = request.mm_processor_kwargs or MmProcessorKwargs()
    return Conversation(
        messages=[_render_message(message) for message in request.messages],
        media=tuple(_iterate_media(request.messages, shared)),
        tools=tuple(map(_render_tool, usable_tools(request))),
    )


def usable_tools(request: ChatCompletionRequest) -> list[Tool]:
    """The tools that may be called in this answer."""
    return [] if request.tool_choice == "none" else request.tools or []


def _render_tool(tool: Tool) -> dict[str, Any]:
    function = tool.function
    described: dict[str, Any] = {"name": function.name}
    if function.description is not None:
        described["description"] = function.description
    described["parameters"] = function.parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": described}


def _render_message(message: Message) -> dict[str, Any]:
    rendered: dict[str, Any] = {
        "role": "system" if message.role == "developer" else message.role,
        "content": _render_content(message.content),
    }
    if isinstance(message, AssistantMessage):
        reasoning = message.reasoning_content or message.reasoning
        if reasoning:
            rendered["reasoning_content"] = reasoning
        if message.tool_calls:
            rendered["tool_calls"] = [_render_call(call) for call in message.tool_calls]
    if isinstance(message, ToolMessage):
        rendered["tool_call_id"] = message.tool_call_id
    return rendered


def _render_call(call: ToolCall) -> dict[str, Any]:
    """Templates take the arguments as an object."""
    arguments = orjson.loads(call.function.arguments or "{}")
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}


def _render_content(content: str | Sequence[Part] | None) -> str | list[dict[str, str]]:
    if content is None or isinstance(content, str):
        return content or ""
    return [_render_part(part) for part in content]


def _render_part(part: Part) -> dict[str, str]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    return {"type": "image" if isinstance(part, ImageUrlPart | ImagePart) else "video"}


def _iterate_media(messages: Sequence[Message], shared: MmProcessorKwargs) -> Iterator[MediaSource]:
    for message_index, message in enumerate(messages):
        if message.content is None or isinstance(message.content, str):
            continue
        for part_index, part in enumerate(message.content):
            if not isinstance(part, TextPart):
                yield _find_source(part, shared, f"messages[{message_index}].content[{part_index}]")


def _find_source(
    part: MediaPart,
    shared: MmProcessorKwargs,
    param: str,
) -> MediaSource:
    param = f"{param}.{part.type}"
    if isinstance(part, ImageUrlPart):
        options = _merge_image_options(part.image_url, shared)
        return MediaSource("image", (part.image_url.url,), options, param)
    if isinstance(part, ImagePart):
        return MediaSource("image", (part.image,), _merge_image_options(part, shared), param)
    if isinstance(part, VideoUrlPart):
        return _find_video((part.video_url.url,), part.video_url, {}, shared, param)
    urls = tuple(part.video) if isinstance(part.video, list) else (part.video,)
    renamed = {"num_frames": part.nframes, "fps": part.sample_fps}
    return _find_video(urls, part, renamed, shared, param, is_list=isinstance(part.video, list))


def _find_video(
    urls: tuple[str, ...],
    given: VideoOptions,
    renamed: dict[str, Any],
    shared: MmProcessorKwargs,
    param: str,
    is_list: bool = False,
) -> MediaSource:
    """A video file or its frames: `renamed` are options of the part under another name."""
    fallback = _video_fallback(shared)
    if is_list or urls[0][: len(FRAMES_URL_PREFIX)].lower() == FRAMES_URL_PREFIX:
        # frames that are listed are not sampled: what the request says of sampling is for its files
        fallback |= dict.fromkeys(("num_frames", "video_start", "video_end"))
        return MediaSource("frames", urls, _merge(given, renamed, fallback, OPTION_NAMES), param)
    if shared.do_sample_frames is False:
        raise InvalidRequest(
            "a video file is always sampled; give `fps` or `num_frames`, or a list of frames",
            "invalid_value",
            "mm_processor_kwargs.do_sample_frames",
        )
    if given.fps or given.num_frames or any(renamed.values()):
        fallback |= dict.fromkeys(("fps", "num_frames"))  # two ways to say one thing
    return MediaSource("video", urls, _merge(given, renamed, fallback, OPTION_NAMES), param)


def _video_fallback(shared: MmProcessorKwargs) -> dict[str, Any]:
    """`size.longest_edge` bounds frames * height * width, twice `total_pixels`."""
    fallback = {name: getattr(shared, name) for name in OPTION_NAMES}
    if shared.size is None:
        return fallback
    if shared.size.shortest_edge is not None:
        raise InvalidRequest(
            "`size.shortest_edge` is for images; for videos give `min_pixels` (of one frame)",
            "invalid_value",
            "mm_processor_kwargs.size.shortest_edge",
        )
    longest_edge = shared.size.longest_edge
    return fallback | {"total_pixels": longest_edge // 2 if longest_edge is not None else None}


def _merge_image_options(given: ImageOptions, shared: MmProcessorKwargs) -> MediaOptions:
    size = shared.size
    fallback = {
        "min_pixels": size.shortest_edge if size else shared.min_pixels,
        "max_pixels": size.longest_edge if size else shared.max_pixels,
    }
    return _merge(given, {}, fallback, IMAGE_OPTION_NAMES)


def _merge(
    given: ImageOptions, renamed: dict[str, Any], fallback: dict[str, Any], names: Sequence[str]
) -> MediaOptions:
    """For each name the first value there is: of the part, under its other name, of the request."""
    values: dict[str, Any] = {}
    for name in names:
        candidates = (getattr(given, name), renamed.get(name), fallback[name])
        values[name] = next((value for value in candidates if value is not None), None)
    return MediaOptions(**values)
