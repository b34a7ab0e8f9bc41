"""TLS of connections, whose handshakes have the bounds of what comes before a request.

uvicorn and the event loop count a connection when its handshake is over, and give that 60 seconds.
"""

import asyncio
import ssl
from typing import Any

from uvloop.loop import SSLProtocol  # type: ignore[attr-defined]

from server.http_protocol import BoundedProtocol
from server.settings import ServerSettings

# For a client's answer to the end of TLS, which idle ones do not give; the loop's own 30 s would
# hold up every stop of the server.
_CLOSE_TIMEOUT_S = 5.0


class TlsProtocols:
    """Makes the protocol of each connection, as uvicorn's `http`: HTTP inside of TLS."""

    def __init__(self, limits: ServerSettings, context: ssl.SSLContext) -> None:
        self._limits = limits
        self._context = context
        self._connections: set[_TlsProtocol] = set()

    def __call__(self, **options: Any) -> "_TlsProtocol":
        http = BoundedProtocol(self._limits, **options)
        return _TlsProtocol(http, self._context, self._limits, self._connections)


class _TlsProtocol(SSLProtocol):  # type: ignore[misc]
    """uvloop's TLS, but a connection is closed

    - at once, beyond `max_connections`, before its handshake;
    - if the handshake is not over within `header_timeout_s`.
    """

    def __init__(
        self,
        http: BoundedProtocol,
        context: ssl.SSLContext,
        limits: ServerSettings,
        connections: "set[_TlsProtocol]",
    ) -> None:
        timeout_s = limits.header_timeout_s
        nobody_waits = None
        super().__init__(
            http.loop,
            http,
            context,
            nobody_waits,
            server_side=True,
            ssl_handshake_timeout=timeout_s,
            ssl_shutdown_timeout=_CLOSE_TIMEOUT_S,
        )
        self._max_connections = limits.max_connections
        self._connections = connections

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._connections.add(self)
        if len(self._connections) > self._max_connections:
            transport.abort()
        else:
            super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        super().connection_lost(exc)
