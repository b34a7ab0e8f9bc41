"""The layer that knows who a request is from, and whether it may go on."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.access.client import Client, client_id, read_api_key


class AccessGate:
    """ASGI middleware: `request.state.client` of all behind it is a `Client`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            api_key = read_api_key(Headers(scope=scope))
            scope.setdefault("state", {})["client"] = Client(client_id(api_key))
        await self._app(scope, receive, send)
