"""Reading a request: its body up to a bound, and whether its client is still there."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from server.errors import PayloadTooLarge, UnsupportedContentType


async def read_json_body(request: Request, max_bytes: int) -> bytes:
    """The body; reading stops at the bound, whatever the headers say.

    Raises: UnsupportedContentType unless it is declared as JSON (a browser sends such a request to
        another origin only after asking); PayloadTooLarge; ClientDisconnect.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise UnsupportedContentType(
            "the content type must be application/json", "unsupported_content_type"
        )
    content_length = request.headers.get("content-length", "")
    if content_length.isdigit() and int(content_length) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
    return bytes(body)


async def run_while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Run `work`, and cancel it when the client goes away.

    Args:
        receive: of a request whose body has been read: the next message is the disconnect.
    Raises: whatever `work` raises; ClientDisconnect.
    """
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_wait_for_disconnect(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        working.result()
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the request body exceeds {max_bytes} bytes", "body_too_large")
