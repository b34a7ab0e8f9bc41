"""What can go wrong with a request, and the one place where it becomes an HTTP status.

ServeError
├── ClientError
│   ├── InvalidRequest          the body does not say what it must, or asks for what is not offered
│   ├── AmbiguousLength         two headers say differently where the body ends
│   ├── Unauthorized            no API key that counts
│   ├── Forbidden               not for web pages, or not for this API key
│   ├── RateLimited             the API key has used up what it may ask for, for now
│   ├── NotFound                there is no such thing here
│   │   └── ModelNotFound       another model is served here
│   ├── Conflict                not now: a profile is running already, or the engine sleeps
│   ├── BodyTimeout             the body did not arrive within `server.body_timeout_s`
│   ├── PayloadTooLarge         the body exceeds `server.max_body_bytes`
│   └── UnsupportedContentType  the body is not declared as JSON, or is compressed
└── ServerError
    ├── EngineFailed            the engine gave up on this request, and lives
    ├── EncoderUnavailable      the encoder process did not encode what the request needs
    ├── NotStored               of an encoder process: it encoded and could not store that
    ├── DeadlineExceeded        the answer was not complete within the request's time
    ├── Overloaded              as many requests as allowed are being served, or too slowly
    └── NotReady                the model is loading, the engine asleep, or the server shutting down

The table has `multimodal.errors.MediaError` and `server.engine.{EngineDead, InvalidSampling}` too.
Every other exception is a bug: status 500, a fixed message, and the trace in the log only.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException

from multimodal.errors import (
    InvalidOption,
    MediaCorrupt,
    MediaError,
    MediaOverload,
    MediaTooLarge,
    TooManyTokens,
    UnsupportedMedia,
)
from server.engine import EngineDead, InvalidSampling
from server.media_url import UrlNotAllowed

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 1
_STATUS_HEADERS: Mapping[int, dict[str, str]] = {
    401: {"WWW-Authenticate": "Bearer"},
    408: {"Connection": "close"},  # what is left of the body is not waited for
    503: {"Retry-After": str(RETRY_AFTER_S)},
}
MAX_REPORTED_FAULTS = 3
MAX_NAME_CHARS = 64


class ServeError(Exception):
    """`message` is shown to clients; `code` is a stable slug; `param` points into the body."""

    def __init__(self, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param


class ClientError(ServeError):
    pass


class InvalidRequest(ClientError):
    pass


class AmbiguousLength(ClientError):
    pass


class Unauthorized(ClientError):
    pass


class Forbidden(ClientError):
    pass


class RateLimited(ClientError):
    """`kind`: what is used up, `requests` or `tokens`: the `type` of OpenAI's error."""

    def __init__(
        self,
        message: str,
        code: str,
        param: str | None = None,
        *,
        kind: str = "requests",
        retry_after_s: int = RETRY_AFTER_S,
    ) -> None:
        super().__init__(message, code, param)
        self.kind = kind
        self.retry_after_s = retry_after_s


class NotFound(ClientError):
    pass


class ModelNotFound(NotFound):
    pass


class Conflict(ClientError):
    pass


class BodyTimeout(ClientError):
    pass


class PayloadTooLarge(ClientError):
    pass


class UnsupportedContentType(ClientError):
    pass


class ServerError(ServeError):
    pass


class EngineFailed(ServerError):
    pass


class EncoderUnavailable(ServerError):
    pass


class NotStored(ServerError):
    pass


class DeadlineExceeded(ServerError):
    pass


class Overloaded(ServerError):
    pass


class NotReady(ServerError):
    pass


_STATUS: Mapping[type[Exception], int] = {
    InvalidRequest: 400,
    AmbiguousLength: 400,
    Unauthorized: 401,
    Forbidden: 403,
    NotFound: 404,
    BodyTimeout: 408,
    Conflict: 409,
    PayloadTooLarge: 413,
    UnsupportedContentType: 415,
    RateLimited: 429,
    EngineFailed: 500,
    EncoderUnavailable: 503,
    NotStored: 503,
    DeadlineExceeded: 504,
    Overloaded: 503,
    NotReady: 503,
    InvalidOption: 400,
    UrlNotAllowed: 400,
    TooManyTokens: 400,
    MediaTooLarge: 413,
    UnsupportedMedia: 415,
    MediaCorrupt: 422,
    MediaOverload: 503,
    MediaError: 422,
    InvalidSampling: 400,
    EngineDead: 503,
}


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """An error as HTTP: status, OpenAI's body, extra headers."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


def describe_error(error: Exception, request_id: str) -> ErrorAnswer:
    """The answer for any exception. One that is not in the table is logged with its trace."""
    if isinstance(error, HTTPException):  # raised by the router
        return _describe_routing(error)
    status = status_of(error)
    if isinstance(error, RateLimited):
        return _describe_rate_limit(error, status)
    if isinstance(error, AmbiguousLength):
        body = _answer(status, error.message, error.code).body
        return ErrorAnswer(status, body, {"Connection": "close"})
    if isinstance(error, ServeError | MediaError):
        return _answer(status, error.message, error.code, error.param)
    code = code_of(error)
    if isinstance(error, InvalidSampling):
        return _answer(status, str(error), code)
    if isinstance(error, EngineDead):
        return _answer(status, "the engine has stopped", code)
    logger.error("unexpected error", exc_info=error)
    return _answer(500, f"internal error (request id {request_id})", code)


def code_of(error: Exception) -> str:
    """The stable slug of an exception that an endpoint raises."""
    if isinstance(error, ServeError | MediaError):
        return error.code
    if isinstance(error, InvalidSampling):
        return "invalid_sampling"
    return "engine_dead" if isinstance(error, EngineDead) else "internal_error"


def status_of(error: Exception) -> int:
    """The HTTP status of an exception: of its class or the nearest base class in the table."""
    return next((_STATUS[cls] for cls in type(error).__mro__ if cls in _STATUS), 500)


def _describe_routing(error: HTTPException) -> ErrorAnswer:
    slugs = {404: "not_found", 405: "method_not_allowed"}
    messages = {404: "no such route", 405: "this route does not take that method"}
    status = error.status_code
    answer = _answer(status, messages.get(status, error.detail), slugs.get(status, "http_error"))
    return ErrorAnswer(status, answer.body, dict(error.headers or {}))


def _describe_rate_limit(error: RateLimited, status: int) -> ErrorAnswer:
    body = _answer(status, error.message, error.code, error.param).body
    detail = {**body["error"], "type": error.kind}
    return ErrorAnswer(status, {"error": detail}, {"Retry-After": str(error.retry_after_s)})


def _answer(status: int, message: str, code: str, param: str | None = None) -> ErrorAnswer:
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return ErrorAnswer(status, body, dict(_STATUS_HEADERS.get(status, {})))


def invalid_request_from(error: ValidationError) -> InvalidRequest:
    """A validation error as the client may see it: few faults, names cut, no echoed text."""
    faults = error.errors(include_url=False, include_context=False)
    described = [_describe_fault(fault) for fault in faults[:MAX_REPORTED_FAULTS]]
    if len(faults) > MAX_REPORTED_FAULTS:
        described.append(f"{len(faults) - MAX_REPORTED_FAULTS} more")
    codes = {"unsupported": "unsupported_parameter", "missing": "missing_parameter"}
    first = faults[0]
    code = codes.get(first["type"], "invalid_value")
    return InvalidRequest("; ".join(described), code, format_param(first["loc"]))


def format_param(loc: Iterable[int | str]) -> str | None:
    """`("messages", 1, "<user>", "content", 0)` -> `messages[1].content[0]`.

    Parts in angle brackets name the branch of a union (see `server.protocol`) and are left out.
    """
    param = ""
    for part in loc:
        if isinstance(part, int):
            param += f"[{part}]"
        elif not (part.startswith("<") and part.endswith(">")):
            param += f".{part[:MAX_NAME_CHARS]}"
    return param.removeprefix(".") or None


def _describe_fault(fault: Mapping[str, Any]) -> str:
    param = format_param(fault["loc"]) or "body"
    if fault["type"] == "unsupported":
        return f"`{param}` is not supported"
    if fault["type"] == "missing":
        return f"`{param}` is required"
    message = fault["msg"].removeprefix("Value error, ")
    return f"`{param}`: {message}{_describe_input(fault)}"


def _describe_input(fault: Mapping[str, Any]) -> str:
    """A number, or the length of a text that is too long; never the text."""
    value = fault["input"]
    if isinstance(value, int | float) and abs(value) < 1e18:
        return f" (given: {value})"
    return f" (given: {len(value)})" if fault["type"] == "string_too_long" else ""
