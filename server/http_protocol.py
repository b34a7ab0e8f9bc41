"""Connections: how many there may be, and how long one may send or read nothing.

uvicorn bounds neither. It has a timer for connections that are idle between two requests, which
the first byte of the next one stops.
"""

import asyncio
import socket
from typing import Any

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from server.settings import ServerSettings

# What the system keeps for a client beside what is on its way; by itself it takes megabytes.
_UNSENT_BYTES = 64 * 1024


class BoundedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, but a connection is closed

    - at once, beyond `max_connections`;
    - if no request has begun, all its headers read, within `header_timeout_s` of the
      connection's start or of the end of an answer;
    - if the client has not read an answer to its end `write_timeout_s` after that.
    """

    def __init__(self, limits: ServerSettings, **options: Any) -> None:
        super().__init__(**options)
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None
        self._answer, self.app = self.app, self._run

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
        if len(self.connections) > self._limits.max_connections:
            transport.abort()
        else:
            self._wait_for_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._stop_timer_if_asked()

    def on_response_complete(self) -> None:
        self._wait_for_request()
        super().on_response_complete()
        self._stop_timer_if_asked()  # by a request that was there already

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application, which may end without the end of an answer."""
        try:
            await self._answer(scope, receive, send)
        finally:
            is_over = self._timer is not None or self.cycle.scope is not scope
            if not is_over and not self.transport.is_closing():
                self._wait_for_request()

    def _wait_for_request(self) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(self._limits.header_timeout_s, self._give_up)

    def _stop_timer_if_asked(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        """What is still to be written is, for a while: the transport has no limit of its own."""
        self.transport.close()
        self._timer = self.loop.call_later(self._limits.write_timeout_s, self.transport.abort)
