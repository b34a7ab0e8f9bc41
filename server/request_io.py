"""One HTTP exchange: a body up to a bound, a client that went away, one that does not read."""

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import suppress
from typing import Any, Concatenate, ParamSpec, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Send

from server.errors import BodyTimeout, Forbidden, PayloadTooLarge, UnsupportedContentType
from server.held_bytes import Hold, hold_freely

Rest = ParamSpec("Rest")
Parsed = TypeVar("Parsed")

_LONG_BYTES = 1 << 20  # of a body; parsing takes 2 to 6 ms
_PIECE_BYTES = 64 * 1024  # the transport's bound from which on writing waits for the client


async def parse_aside(
    parse: Callable[Concatenate[bytearray, Rest], Parsed],
    body: bytearray,
    *args: Rest.args,
    **kwargs: Rest.kwargs,
) -> Parsed:
    """`parse(body, ...)`; a long body in a thread, so that others wait for its longest step only.

    That is the JSON parser's, which keeps the lock of the interpreter: a third of the whole.
    """
    if len(body) < _LONG_BYTES:
        return parse(body, *args, **kwargs)
    return await asyncio.to_thread(parse, body, *args, **kwargs)


def refuse_browsers(request: Request, what: str) -> None:
    """Requests without a body need no permission of ours to come from any page on the web.

    Raises: Forbidden.
    """
    if "origin" in request.headers:
        raise Forbidden(f"{what} are not for web pages: a request with `Origin`", "web_page")


async def read_json_body(
    request: Request, max_bytes: int, timeout_s: float, hold: Hold = hold_freely
) -> bytearray:
    """The body; reading stops at the bound, whatever the headers say.

    Args:
        hold: told of bytes as they come; what it raises ends the reading.
    Raises: UnsupportedContentType unless it is declared as JSON (a browser sends such a request to
        another origin only after asking) and not compressed; PayloadTooLarge; BodyTimeout;
        ClientDisconnect.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise UnsupportedContentType(
            "the content type must be application/json", "unsupported_content_type"
        )
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise UnsupportedContentType(
            "a compressed body is not supported; send it without Content-Encoding",
            "unsupported_content_encoding",
        )
    if _declared_length(request) > max_bytes:
        raise _too_large(max_bytes)
    return await read_body(request, max_bytes, timeout_s, lambda: _too_large(max_bytes), hold)


async def read_body(
    request: Request,
    max_bytes: int,
    timeout_s: float,
    too_large: Callable[[], Exception],
    hold: Hold = hold_freely,
) -> bytearray:
    """Reading stops at the bound; for `hold` see `read_json_body`.

    Raises: what `too_large` makes; BodyTimeout; ClientDisconnect.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                if len(body) + len(chunk) > max_bytes:
                    raise too_large()
                hold(len(chunk))
                body += chunk
    except TimeoutError:
        raise BodyTimeout(
            f"the request body did not arrive within {timeout_s:g} s", "body_timeout"
        ) from None
    return body


def with_write_timeout(send: Send, timeout_s: float) -> Send:
    """`send` that takes a client for gone when it has not read enough for so long.

    A large body is sent in pieces: all that is given to a transport at once is kept until the
    client has read it, however long that takes.

    Raises: ClientDisconnect.
    """

    async def send_in_time(message: Message) -> None:
        if len(message.get("body", b"")) <= _PIECE_BYTES:
            await send_piece(message)
            return
        for piece in _split(message):
            await send_piece(piece)

    async def send_piece(message: Message) -> None:
        sending = send(message).__await__()
        try:
            awaited = next(sending)
        except StopIteration:
            return  # the usual case: a timer costs more than all else that is done for a token
        try:
            async with asyncio.timeout(timeout_s):
                await _go_on(sending, awaited)
        except TimeoutError:
            raise ClientDisconnect from None

    return send_in_time


def _split(message: Message) -> Iterator[Message]:
    body = message["body"]
    for start in range(0, len(body), _PIECE_BYTES):
        end = start + _PIECE_BYTES
        more_body = end < len(body) or message.get("more_body", False)
        yield {"type": message["type"], "body": body[start:end], "more_body": more_body}


@types.coroutine
def _go_on(begun: Generator[Any, Any, None], awaited: Any) -> Generator[Any, Any, None]:
    """Await the rest of what has run until it awaited something for the first time."""
    with suppress(StopIteration):
        while True:
            try:
                value = yield awaited
            except BaseException as error:
                awaited = begun.throw(error)
            else:
                awaited = begun.send(value)


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


def _declared_length(request: Request) -> int:
    try:
        return int(request.headers.get("content-length", ""))
    except ValueError:
        return 0


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the request body exceeds {max_bytes} bytes", "body_too_large")
