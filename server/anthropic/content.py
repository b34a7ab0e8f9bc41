"""The content blocks of a body for Anthropic's `/v1/messages`.

`cache_control`, citations and signatures are accepted and have no effect.
"""

import re
from functools import partial
from typing import Annotated, Any, Literal, Never

from pydantic import (
    Discriminator,
    Field,
    PlainValidator,
    StringConstraints,
    Tag,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from server.body import STR_OR_LIST, BodyModel, Identifier, MediaUrl, by_type
from server.nesting import JsonObject
from server.protocol import FunctionName

_TYPE_NAME = re.compile(r"[a-z0-9_]{1,64}", re.ASCII)
MediaType = Annotated[
    str, StringConstraints(pattern=r"^[a-zA-Z0-9_.+-]{1,64}/[a-zA-Z0-9_.+-]{1,64}$")
]


def by_type_or_other(*names: str, default: str | None = None) -> Discriminator:
    """Like `by_type`, but every other type is tagged `<other>`; `default` is for none at all."""

    def tag(value: object) -> str | None:
        name = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
        name = default if name is None else name
        if not isinstance(name, str):
            return None
        return f"<{name}>" if name in names else "<other>"

    return Discriminator(
        tag,
        custom_error_type="type",
        custom_error_message=f"`type` must be one of: {', '.join(names)}",
    )


def refuse_type(things: str, value: object) -> Never:
    """Every type that is not known is refused, by its name if that looks like one."""
    name = value.get("type") if isinstance(value, dict) else None
    is_name = isinstance(name, str) and _TYPE_NAME.fullmatch(name)
    context = {"things": things, "type": f"type `{name}`" if is_name else "this type"}
    raise PydanticCustomError(
        "unsupported_type", "{things} of {type} are not supported here", context
    )


# Documents, the blocks of tools that a server runs, and whatever is to come.
OtherBlock = Annotated[
    Never,
    PlainValidator(partial(refuse_type, "blocks")),
    Tag("<other>"),
    WithJsonSchema(None),  # no client should know of it
]


class Block(BodyModel):
    cache_control: Any = None


class TextBlock(Block):
    type: Literal["text"]
    text: str
    citations: Any = None


class Base64Source(BodyModel):
    type: Literal["base64"]
    media_type: MediaType
    data: Annotated[str, StringConstraints(min_length=1)]


class UrlSource(BodyModel):
    type: Literal["url"]
    url: MediaUrl


Source = Annotated[
    Annotated[Base64Source, Tag("<base64>")] | Annotated[UrlSource, Tag("<url>")],
    by_type("base64", "url"),
]


class ImageBlock(Block):
    type: Literal["image"]
    source: Source


class VideoBlock(Block):
    """An extension; base64 of `video/jpeg` holds frames, with commas between them."""

    type: Literal["video"]
    source: Source


class ThinkingBlock(Block):
    type: Literal["thinking"]
    thinking: str
    signature: Any = None


class RedactedThinkingBlock(Block):
    """Nothing that came from here, so nothing that could be read."""

    type: Literal["redacted_thinking"]
    data: Any = None


class ToolUseBlock(Block):
    type: Literal["tool_use"]
    id: Identifier
    name: FunctionName
    input: JsonObject
    caller: Any = None


PartBlock = TextBlock | ImageBlock | VideoBlock
ResultBlock = Annotated[
    Annotated[TextBlock, Tag("<text>")]
    | Annotated[ImageBlock, Tag("<image>")]
    | Annotated[VideoBlock, Tag("<video>")]
    | OtherBlock,
    by_type_or_other("text", "image", "video"),
]
ResultContent = Annotated[
    Annotated[str, Tag("<str>")]
    | Annotated[list[ResultBlock], Field(fail_fast=True), Tag("<list>")],
    STR_OR_LIST,
]


class ToolResultBlock(Block):
    type: Literal["tool_result"]
    tool_use_id: Identifier
    content: ResultContent | None = None
    is_error: bool | None = None


UserBlock = Annotated[
    Annotated[TextBlock, Tag("<text>")]
    | Annotated[ImageBlock, Tag("<image>")]
    | Annotated[VideoBlock, Tag("<video>")]
    | Annotated[ToolResultBlock, Tag("<tool_result>")]
    | OtherBlock,
    by_type_or_other("text", "image", "video", "tool_result"),
]
AssistantBlock = Annotated[
    Annotated[TextBlock, Tag("<text>")]
    | Annotated[ThinkingBlock, Tag("<thinking>")]
    | Annotated[RedactedThinkingBlock, Tag("<redacted_thinking>")]
    | Annotated[ToolUseBlock, Tag("<tool_use>")]
    | OtherBlock,
    by_type_or_other("text", "thinking", "redacted_thinking", "tool_use"),
]
SystemContent = Annotated[
    Annotated[str, Tag("<str>")] | Annotated[list[TextBlock], Field(fail_fast=True), Tag("<list>")],
    STR_OR_LIST,
]
