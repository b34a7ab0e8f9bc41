"""A bound on what another server may send before the body of its answer begins.

The HTTP library bounds one head, but not how many of them may come before the one that counts
(`100 Continue`, `103 Early Hints`): parsing them without end would hold up the event loop.
"""

import ssl
from collections.abc import Iterable
from typing import Any

import httpcore

MAX_HEAD_BYTES = 64 * 1024
_READ_BYTES = 8 * 1024  # some 400 of the shortest heads, parsed in one go


class HeadBound(httpcore.AsyncNetworkStream):
    """A connection; a request written to it begins to wait for a head."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._num_left: int | None = None  # bytes; None: the body is being read

    def end_head(self) -> None:
        """The head has come; what follows is bounded by whoever reads it."""
        self._num_left = None

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Raises: httpcore.RemoteProtocolError if the head is too long."""
        if self._num_left is None:
            return await self._stream.read(max_bytes, timeout)
        data = await self._stream.read(min(max_bytes, _READ_BYTES), timeout)
        self._num_left -= len(data)
        if self._num_left < 0:
            raise httpcore.RemoteProtocolError("the head of the answer is too long")
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._num_left = MAX_HEAD_BYTES
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> "HeadBound":
        return HeadBound(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class HeadBoundBackend(httpcore.AsyncNetworkBackend):
    """Opens the connections of another backend, with the bound."""

    def __init__(self, backend: httpcore.AsyncNetworkBackend) -> None:
        self._backend = backend

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> HeadBound:
        stream = await self._backend.connect_tcp(host, port, timeout, local_address, socket_options)
        return HeadBound(stream)
