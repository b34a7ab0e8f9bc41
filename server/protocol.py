"""The body of `POST /v1/chat/completions`: what is accepted, what is ignored, what is refused.

A parameter is one of four kinds: supported (a field below), harmless (accepted, without effect),
known but unsupported (refused unless it has the value that changes nothing), unknown (refused).
Nothing is dropped silently that would change the answer.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal

import orjson
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

from server.body_data_url import BodyDataUrl, set_aside_data_urls
from server.errors import InvalidRequest, invalid_request_from

MAX_MESSAGES = 4096
MAX_PARTS = 4096  # over all messages
MAX_CHOICES = 16
MAX_STOP_STRINGS = 16
MAX_STOP_CHARS = 256
MAX_TOP_LOGPROBS = 20
MAX_LOGIT_BIAS_ENTRIES = 1024
MAX_OBJECT_KEYS = 1024
MAX_STRUCTURE = 200_000  # values that a body may have, about; parsing them takes 20 to 120 ms
MAX_TOP_K = 2**31 - 1  # the engine has it in 32 bits
_INT64 = 2**63

_HARMLESS = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
# name -> the values that ask for nothing; None always does
_UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    "audio": (),
    "chat_template": (),
    "function_call": ("none",),
    "functions": ([],),
    "modalities": (["text"],),
    "prediction": (),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "thinking_budget": (),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": (),
    "web_search_options": (),
}
# clients send an answer back as they got it, with fields that are null or empty
_MESSAGE_HARMLESS = frozenset({"name"})
_MESSAGE_UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    "annotations": ([],),
    "audio": (),
    "function_call": (),
    "refusal": (),
    "tool_calls": ([],),
}


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class ImageOptions(_Model):
    """Pixels of the resized image; the server's ceilings are checked with the media."""

    min_pixels: int | None = Field(default=None, ge=1)
    max_pixels: int | None = Field(default=None, ge=1)


class VideoOptions(ImageOptions):
    """`multimodal.options.MediaOptions` as a request spells it."""

    fps: float | None = Field(default=None, gt=0)
    num_frames: int | None = Field(default=None, ge=1)
    max_frames: int | None = Field(default=None, ge=1)
    video_start: float | None = Field(default=None, ge=0)
    video_end: float | None = Field(default=None, ge=0)
    total_pixels: int | None = Field(default=None, ge=1)


class TextPart(_Model):
    type: Literal["text"]
    text: str


def _take_set_aside(
    value: object, validate: ValidatorFunctionWrapHandler, info: ValidationInfo
) -> str:
    """A stand-in gives way to its URL, which is taken out of the context."""
    urls: dict[str, BodyDataUrl] | None = info.context
    url = urls.pop(value, None) if urls and isinstance(value, str) else None
    return validate(value) if url is None else url


MediaUrl = Annotated[str, StringConstraints(min_length=1), WrapValidator(_take_set_aside)]


class ImageUrl(ImageOptions):
    """`detail` is accepted and has no effect: `max_pixels` says the same with a number."""

    url: MediaUrl
    detail: Literal["auto", "low", "high"] | None = None


class ImageUrlPart(_Model):
    type: Literal["image_url"]
    image_url: ImageUrl


class VideoUrl(VideoOptions):
    url: MediaUrl


class VideoUrlPart(_Model):
    type: Literal["video_url"]
    video_url: VideoUrl


class ImagePart(ImageOptions):
    """An image as qwen-vl-utils writes it."""

    type: Literal["image"]
    image: MediaUrl


def _tag_str_or_list(value: object) -> str | None:
    return "<list>" if isinstance(value, list) else "<str>" if isinstance(value, str) else None


_STR_OR_LIST = Discriminator(
    _tag_str_or_list,
    custom_error_type="string_or_list",
    custom_error_message="must be a string or a list",
)


class VideoPart(VideoOptions):
    """A video as qwen-vl-utils writes it: one URL, or the frames of a video as a list of URLs.

    `nframes` is its name for `num_frames`; `sample_fps` is the rate at which frames were taken.
    """

    type: Literal["video"]
    video: Annotated[
        Annotated[MediaUrl, Tag("<str>")]
        | Annotated[list[MediaUrl], Field(min_length=1, fail_fast=True), Tag("<list>")],
        _STR_OR_LIST,
    ]
    nframes: int | None = Field(default=None, ge=1)
    sample_fps: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _check_names(self) -> "VideoPart":
        if self.nframes is not None and self.num_frames is not None:
            raise ValueError("`nframes` and `num_frames` are the same option; give one")
        if self.sample_fps is not None and (self.fps is not None or isinstance(self.video, str)):
            raise ValueError("`sample_fps` is for a list of frames, and instead of `fps`")
        return self


def _tag_part(value: object) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return f"<{kind}>"


Part = Annotated[
    Annotated[TextPart, Tag("<text>")]
    | Annotated[ImageUrlPart, Tag("<image_url>")]
    | Annotated[VideoUrlPart, Tag("<video_url>")]
    | Annotated[ImagePart, Tag("<image>")]
    | Annotated[VideoPart, Tag("<video>")],
    Discriminator(
        _tag_part,
        custom_error_type="part_type",
        custom_error_message="`type` must be one of: text, image_url, video_url, image, video",
    ),
]
Parts = Annotated[list[Part], Field(min_length=1, fail_fast=True)]
TextParts = Annotated[list[TextPart], Field(min_length=1, fail_fast=True)]

TextContent = Annotated[
    Annotated[str, Tag("<str>")] | Annotated[TextParts, Tag("<list>")], _STR_OR_LIST
]
Content = Annotated[Annotated[str, Tag("<str>")] | Annotated[Parts, Tag("<list>")], _STR_OR_LIST]


class SystemMessage(_Model):
    role: Literal["system", "developer"]
    content: TextContent


class UserMessage(_Model):
    role: Literal["user"]
    content: Content


class AssistantMessage(_Model):
    role: Literal["assistant"]
    content: TextContent | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


def _tag_message(value: object) -> str | None:
    role = value.get("role") if isinstance(value, dict) else getattr(value, "role", None)
    return "<system>" if role == "developer" else f"<{role}>"


Message = Annotated[
    Annotated[SystemMessage, Tag("<system>")]
    | Annotated[UserMessage, Tag("<user>")]
    | Annotated[AssistantMessage, Tag("<assistant>")],
    Discriminator(
        _tag_message,
        custom_error_type="role",
        custom_error_message="`role` must be one of: system, developer, user, assistant",
    ),
]


class PixelBounds(_Model):
    """The Hugging Face processors' `size`: areas, in spite of the names."""

    shortest_edge: int | None = Field(default=None, ge=1)
    longest_edge: int | None = Field(default=None, ge=2)


class MmProcessorKwargs(VideoOptions):
    """Options for all media of the request; what a part says itself wins."""

    do_sample_frames: bool | None = None
    size: PixelBounds | None = None

    @model_validator(mode="after")
    def _check_size(self) -> "MmProcessorKwargs":
        others = (self.min_pixels, self.max_pixels, self.total_pixels)
        if self.size is not None and any(value is not None for value in others):
            raise ValueError("`size` excludes `min_pixels`, `max_pixels` and `total_pixels`")
        return self


class ChatTemplateKwargs(_Model):
    enable_thinking: bool | None = None


class StreamOptions(_Model):
    include_usage: bool = False


class ChatCompletionRequest(_Model):
    """One request. `None` means: the checkpoint's default (see `server.sampling`)."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    mm_processor_kwargs: MmProcessorKwargs | None = None
    chat_template_kwargs: ChatTemplateKwargs | None = None

    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, le=MAX_TOP_K, description="-1 and 0: all tokens")
    min_p: float | None = Field(default=None, ge=0, le=1)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=2)
    seed: int | None = Field(default=None, ge=-_INT64, lt=_INT64)
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    stop: list[str] | None = Field(default=None, description="a single string becomes a list")
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    min_tokens: int | None = Field(default=None, ge=0)
    ignore_eos: bool | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)

    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _check_stop(cls, value: object) -> object:
        strings = [value] if isinstance(value, str) else value
        if strings is None or not isinstance(strings, list):
            return value  # its type is checked next
        if len(strings) > MAX_STOP_STRINGS:
            raise ValueError(f"at most {MAX_STOP_STRINGS} stop strings, not {len(strings)}")
        if not all(isinstance(s, str) and 1 <= len(s) <= MAX_STOP_CHARS for s in strings):
            raise ValueError(f"stop strings must have 1 to {MAX_STOP_CHARS} characters")
        return strings

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _check_logit_bias(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value  # its type is checked next
        if len(value) > MAX_LOGIT_BIAS_ENTRIES:
            raise ValueError(f"at most {MAX_LOGIT_BIAS_ENTRIES} entries, not {len(value)}")
        if not all(k.isascii() and k.isdigit() and len(k) <= 9 for k in value):
            raise ValueError("keys must be token ids")
        if not all(_is_bias(bias) for bias in value.values()):
            raise ValueError("values must be numbers from -100 to 100")
        return value

    @model_validator(mode="after")
    def _check_combinations(self) -> "ChatCompletionRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("`top_logprobs` needs `logprobs`: true")
        if self.stream_options is not None and not self.stream:
            raise ValueError("`stream_options` needs `stream`: true")
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise ValueError("`max_tokens` and `max_completion_tokens` differ; give one")
        return self

    @property
    def token_limit(self) -> int | None:
        """The most tokens of one answer, as far as the request says."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return self.stream_options is not None and self.stream_options.include_usage


def parse_chat_request(body: bytes | bytearray) -> ChatCompletionRequest:
    """The request; long data URLs in it are `BodyDataUrl`s, which keep the body alive.

    Raises: InvalidRequest.
    """
    skeleton, urls = set_aside_data_urls(body)
    if urls:
        with suppress(InvalidRequest):
            request = _parse(skeleton, urls)
            if not urls:
                return request
    # There are none, or some stand where no media is, or a fault is to be told of the whole body.
    return _parse(body, {})


def _parse(body: bytes | bytearray, urls: dict[str, BodyDataUrl]) -> ChatCompletionRequest:
    """The request, with those of `urls` that stand for media; they are removed from `urls`."""
    _refuse_complex_json(body)
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise InvalidRequest("the body is not valid JSON", "invalid_json") from None
    if not isinstance(data, dict):
        raise InvalidRequest("the body must be a JSON object", "invalid_json")
    _refuse_wide_objects(data)
    try:
        return ChatCompletionRequest.model_validate(_reduce_body(data), context=urls)
    except ValidationError as error:
        raise invalid_request_from(error) from None


def _refuse_complex_json(body: bytes | bytearray) -> None:
    """Millions of tiny values take seconds; counting the signs between them, next to nothing."""
    if len(body) <= MAX_STRUCTURE:
        return
    num_signs = sum(map(body.count, (b"{", b"[", b",")))
    if num_signs > MAX_STRUCTURE:
        raise InvalidRequest(
            f"the body has {num_signs} of the signs `{{`, `[` and `,`; at most {MAX_STRUCTURE}",
            "too_complex",
        )


def _refuse_wide_objects(data: dict[str, Any]) -> None:
    """Each unknown key makes a validation error, so their number is bounded first."""
    stack: list[object] = [data]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            if len(value) > MAX_OBJECT_KEYS:
                raise InvalidRequest(
                    f"an object of the body has {len(value)} keys; at most {MAX_OBJECT_KEYS}",
                    "invalid_value",
                )
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)


def _reduce_body(data: dict[str, Any]) -> dict[str, Any]:
    """The body without what has no effect. Raises: InvalidRequest for what is unsupported."""
    reduced = _reduce(data, _HARMLESS, _UNSUPPORTED, "")
    messages = reduced.get("messages")
    if isinstance(messages, list):
        _refuse_many_parts(messages)
        reduced["messages"] = [_reduce_message(m, index) for index, m in enumerate(messages)]
    return reduced


def _refuse_many_parts(messages: list[Any]) -> None:
    contents = [message.get("content") for message in messages if isinstance(message, dict)]
    num_parts = sum(len(content) for content in contents if isinstance(content, list))
    if num_parts > MAX_PARTS:
        raise InvalidRequest(
            f"the messages have {num_parts} content parts; at most {MAX_PARTS}",
            "too_complex",
            "messages",
        )


def _reduce_message(message: object, index: int) -> object:
    if not isinstance(message, dict):
        return message  # its type is checked next
    if message.get("role") in ("tool", "function"):
        raise InvalidRequest(
            "tool results are not supported", "unsupported_parameter", f"messages[{index}].role"
        )
    return _reduce(message, _MESSAGE_HARMLESS, _MESSAGE_UNSUPPORTED, f"messages[{index}].")


def _reduce(
    data: dict[str, Any],
    harmless: frozenset[str],
    unsupported: Mapping[str, tuple[object, ...]],
    prefix: str,
) -> dict[str, Any]:
    for name, neutral in unsupported.items():
        value = data.get(name)
        if value is not None and value not in neutral:
            raise InvalidRequest(
                f"`{prefix}{name}` is not supported", "unsupported_parameter", f"{prefix}{name}"
            )
    return {k: v for k, v in data.items() if k not in harmless and k not in unsupported}


def _is_bias(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -100 <= value <= 100
