"""The bytes of a request's body -> a pydantic model, in bounded time, and what it does not know.

A parameter is one of four kinds: supported (a field of the model), harmless (a field too, without
effect), known but unsupported (a field that takes only the values that change nothing; see
`unsupported`), unknown (ignored, and named in a header of the answer).
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Annotated, Any, Generic, TypeVar

import orjson
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)
from pydantic.functional_validators import BeforeValidator
from pydantic_core import PydanticCustomError

from server.body_data_url import BodyDataUrl, set_aside_data_urls
from server.errors import MAX_NAME_CHARS, InvalidRequest, format_param, invalid_request_from

MAX_MESSAGES = 4096
MAX_PARTS = 4096  # over all messages
MAX_OBJECT_KEYS = 1024
MAX_ID_CHARS = 512
MAX_DEPTH = 1024  # the JSON parser's own
MAX_STRUCTURE = 200_000  # values that a body may have, about; parsing them takes 20 to 120 ms
MAX_NAMED_UNKNOWN = 8
_SIGNS = (b"{", b"[", b",")
_ESCAPED_SIGNS = tuple(b"\\u00" + digits for digits in (b"7b", b"7B", b"5b", b"5B", b"2c", b"2C"))


class BodyModel(BaseModel):
    """A JSON object of a body. Unknown keys are kept, for `iterate_unknown`."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, allow_inf_nan=False)


Body = TypeVar("Body", bound=BodyModel)
# What names something, or stands for it, and is no text for the model.
Identifier = Annotated[str, StringConstraints(max_length=MAX_ID_CHARS)]


@dataclass(frozen=True, slots=True)
class ParsedBody(Generic[Body]):
    """`unknown` has the first few names of fields that are ignored."""

    request: Body
    unknown: tuple[str, ...]


def unsupported(*neutral: object) -> BeforeValidator:
    """For a field that is known, and refused unless it is null or one of `neutral`."""
    # Naming the values also keeps `typing`, which caches, from taking 1 and True for the same.
    taken = ", ".join(orjson.dumps(value).decode() for value in (None, *neutral))
    schema = {"enum": [None, *neutral], "description": f"not supported; takes {taken}"}
    return BeforeValidator(
        partial(_refuse_unless, neutral),
        json_schema_input_type=Annotated[Any, WithJsonSchema(schema)],
    )


def _refuse_unless(neutral: tuple[object, ...], value: object) -> None:
    # `True == 1`, but to JSON they are two values
    if value is not None and not any(type(value) is type(n) and value == n for n in neutral):
        raise PydanticCustomError("unsupported", "is not supported")


def _take_set_aside(
    value: object, validate: ValidatorFunctionWrapHandler, info: ValidationInfo
) -> str:
    """A stand-in gives way to its URL, which is taken out of the context."""
    urls: dict[str, BodyDataUrl] | None = info.context
    url = urls.pop(value, None) if urls and isinstance(value, str) else None
    return validate(value) if url is None else url


MediaUrl = Annotated[str, StringConstraints(min_length=1), WrapValidator(_take_set_aside)]


def _tag_str_or_list(value: object) -> str | None:
    return "<list>" if isinstance(value, list) else "<str>" if isinstance(value, str) else None


STR_OR_LIST = Discriminator(
    _tag_str_or_list,
    custom_error_type="string_or_list",
    custom_error_message="must be a string or a list",
)


def by_type(*names: str) -> Discriminator:
    """Tells the members of a union apart by `type`; each is tagged with its name in `<>`."""
    return _by_key("type", {}, names)


def by_role(*names: str, **aliases: str) -> Discriminator:
    """The same by `role`; `aliases` have the model of another role."""
    return _by_key("role", aliases, names)


def _by_key(key: str, aliases: Mapping[str, str], names: tuple[str, ...]) -> Discriminator:
    def tag(value: object) -> str | None:
        name = value.get(key) if isinstance(value, dict) else getattr(value, key, None)
        return f"<{aliases.get(name, name) if isinstance(name, str) else None}>"

    return Discriminator(
        tag,
        custom_error_type=key,
        custom_error_message=f"`{key}` must be one of: {', '.join((*names, *aliases))}",
    )


def parse_body(body: bytes | bytearray, model: type[Body]) -> ParsedBody[Body]:
    """The request; long data URLs in it are `BodyDataUrl`s, which keep the body alive.

    Raises: InvalidRequest.
    """
    skeleton, urls = set_aside_data_urls(body)
    if urls:
        with suppress(InvalidRequest):
            request = _parse(skeleton, urls, model)
            if not urls:
                return request
    # There are none, or some stand where no media is, or a fault is to be told of the whole body.
    return _parse(body, {}, model)


def _parse(
    body: bytes | bytearray, urls: dict[str, BodyDataUrl], model: type[Body]
) -> ParsedBody[Body]:
    """The request, with those of `urls` that stand for media; they are removed from `urls`."""
    _refuse_complex_json(body)
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        is_deep = "depth limit" in error.msg
        fault = f"nests deeper than {MAX_DEPTH} levels" if is_deep else "is not valid JSON"
        raise InvalidRequest(f"the body {fault}", "invalid_json") from None
    if not isinstance(data, dict):
        raise InvalidRequest("the body must be a JSON object", "invalid_json")
    _refuse_wide_objects(data)
    _refuse_many_parts(data)
    try:
        request = model.model_validate(data, context=urls)
    except ValidationError as error:
        raise invalid_request_from(error) from None
    return ParsedBody(request, tuple(islice(iterate_unknown(request), MAX_NAMED_UNKNOWN)))


def iterate_unknown(model: BaseModel, path: tuple[str | int, ...] = ()) -> Iterator[str]:
    """The names of all fields that no model knows."""
    unknown = model.model_extra or {}
    for name in unknown:
        yield ".".join(filter(None, (format_param(path), name[:MAX_NAME_CHARS])))
    for name in model.model_fields_set - unknown.keys():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from iterate_unknown(value, (*path, name))
        for index, part in enumerate(value if isinstance(value, list) else ()):
            if isinstance(part, BaseModel):
                yield from iterate_unknown(part, (*path, name, index))


def _refuse_complex_json(body: bytes | bytearray) -> None:
    """Millions of tiny values take seconds; counting the signs between them, next to nothing.

    Some strings are JSON texts themselves (arguments of calls), so escaped signs count as well.
    """
    if len(body) <= MAX_STRUCTURE:
        return
    num_signs = sum(map(body.count, _SIGNS))
    if body.find(b"\\u00") >= 0:
        num_signs += sum(map(body.count, _ESCAPED_SIGNS))
    if num_signs > MAX_STRUCTURE:
        raise InvalidRequest(
            f"the body has {num_signs} of the signs `{{`, `[` and `,`; at most {MAX_STRUCTURE}",
            "too_complex",
        )


def _refuse_wide_objects(data: dict[str, Any]) -> None:
    """Each unknown key is looked at, so their number is bounded first."""
    _refuse_keys(data, None)
    for name, field in data.items():
        stack: list[object] = [field]
        while stack:
            value = stack.pop()
            if isinstance(value, dict):
                _refuse_keys(value, name)
                stack.extend(value.values())
            elif isinstance(value, list):
                stack.extend(value)


def _refuse_keys(value: dict[str, Any], name: str | None) -> None:
    """Args: name: of the field that the object is, or is in; None for the body itself."""
    if len(value) > MAX_OBJECT_KEYS:
        param = None if name is None else format_param((name,))
        where = f"in `{param}`" if param else "of the body"
        raise InvalidRequest(
            f"an object {where} has {len(value)} keys; at most {MAX_OBJECT_KEYS}",
            "invalid_value",
            param,
        )


def _refuse_many_parts(data: dict[str, Any]) -> None:
    """Each part may make a validation error. `input` is the Responses API's word."""
    for name in ("messages", "input"):
        messages = data.get(name)
        if not isinstance(messages, list):
            continue
        num_parts = sum(map(_count_parts, messages))
        if num_parts > MAX_PARTS:
            raise InvalidRequest(
                f"`{name}` has {num_parts} content parts; at most {MAX_PARTS}", "too_complex", name
            )


def _count_parts(holder: object, levels: int = 2) -> int:
    """Of a message; those of the result of a tool, which may be a part itself, are some too."""
    if not isinstance(holder, dict) or levels == 0:
        return 0
    lists = [holder[key] for key in ("content", "output") if isinstance(holder.get(key), list)]
    return sum(
        len(parts) + sum(_count_parts(part, levels - 1) for part in parts) for parts in lists
    )
