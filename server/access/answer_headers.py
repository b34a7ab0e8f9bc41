"""The outermost layer: headers that every answer has, errors and refusals included."""

from collections.abc import Mapping

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.request_scope import ANTHROPIC_ID_HEADER, REQUEST_ID_HEADER, make_request_id

# What this server sends is no page, and holds nothing to load or to keep.
_HEADERS: Mapping[str, str] = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_TLS_HEADERS: Mapping[str, str] = {"strict-transport-security": "max-age=31536000"}  # a year


class AnswerHeaders:
    """ASGI middleware. A route's own headers of the same names stay as they are.

    Where `request.state.allowance` is set, its `x-ratelimit-*` are added.
    """

    def __init__(self, app: ASGIApp, *, has_tls: bool) -> None:
        self._app = app
        self._headers = {**_HEADERS, **_TLS_HEADERS} if has_tls else _HEADERS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
                if (
                    REQUEST_ID_HEADER not in headers
                ):  # a preflight's, answered outside `RequestScope`
                    request_id = make_request_id(scope)
                    headers[REQUEST_ID_HEADER] = headers[ANTHROPIC_ID_HEADER] = request_id
                allowance = scope.get("state", {}).get("allowance")
                if allowance is not None:
                    headers.update(allowance.headers())
            await send(message)

        await self._app(scope, receive, send_with_headers)
