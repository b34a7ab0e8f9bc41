"""The outermost layer: every request has an id, every exception becomes a well-formed answer."""

import re
import uuid
from collections.abc import Callable
from typing import Any

import orjson
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import AmbiguousLength, describe_error
from server.request_log import RequestLog, add_fields, logged

REQUEST_ID_HEADER = "x-request-id"
ANTHROPIC_ID_HEADER = "request-id"
DescribeError = Callable[[dict[str, Any], int], dict[str, Any]]
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)


class RequestScope:
    """ASGI middleware. The id is the client's `x-request-id` if it is sane; answers carry it.

    So does every log line that is written while the request is handled.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = make_request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        with logged(request_id, scope) as log:
            await self._handle(scope, receive, send, log)

    async def _handle(self, scope: Scope, receive: Receive, send: Send, log: RequestLog) -> None:
        request_id = log.request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                log.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID_HEADER] = headers[ANTHROPIC_ID_HEADER] = request_id
            await send(message)

        try:
            _check_length(Headers(scope=scope))
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            log.has_lost_client = True  # nobody is left to answer
        except Exception as error:
            if log.status is not None:
                raise
            describe = scope["state"].get("describe_error")
            response = error_response(error, request_id, describe)
            await response(scope, receive, send_with_id)


def make_request_id(scope: Scope) -> str:
    """The client's if it is sane, else one of ours."""
    given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
    return given if _SANE_ID.fullmatch(given) else f"req-{uuid.uuid4().hex}"


def _check_length(headers: Headers) -> None:
    """A proxy may go by one header, h11 by the other: what is a body to one is a request to the
    other. Raises: AmbiguousLength, after which the connection is closed.
    """
    if "transfer-encoding" in headers and "content-length" in headers:
        message = "a request must not have both Transfer-Encoding and Content-Length"
        raise AmbiguousLength(message, "ambiguous_length")


def error_response(
    error: Exception, request_id: str, describe: DescribeError | None = None
) -> Response:
    """Args: describe: gives OpenAI's error object the shape of another API."""
    answer = describe_error(error, request_id)
    add_fields(code=answer.body["error"]["code"])
    body = describe(answer.body, answer.status) if describe else answer.body
    return Response(orjson.dumps(body), answer.status, answer.headers, "application/json")
