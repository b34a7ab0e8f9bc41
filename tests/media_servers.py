"""Media servers on 127.0.0.1 that play what they are told, and fetchers that may talk to them.

The loopback address is let through by the fetcher's own constructor argument, in tests only.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest

from multimodal.errors import MediaError
from server.address_check import IPAddress, is_public_address
from server.media_fetch import MediaFetcher

LOOPBACK = ip_address("127.0.0.1")
BODY = bytes(range(256)) * 40


@dataclass
class Resolver:
    """Answers 127.0.0.1 unless told otherwise, and counts the questions."""

    answers: dict[str, list[str]] = field(default_factory=dict)
    questions: list[str] = field(default_factory=list)

    async def __call__(self, host: str, port: int) -> tuple[IPAddress, ...]:
        self.questions.append(host)
        answers = self.answers.get(host, ["127.0.0.1"])
        return (ip_address(answers.pop(0) if len(answers) > 1 else answers[0]),)


@dataclass
class Server:
    """Plays the given answers, one per connection, and keeps the request heads."""

    port: int = 0
    heads: list[bytes] = field(default_factory=list)
    num_open: int = 0
    max_open: int = 0


Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


def answer(body: bytes = BODY, status: str = "200 OK", *headers: str) -> Answer:
    async def write(writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
        writer.write("\r\n".join(lines).encode() + body)
        await writer.drain()

    return write


def redirect(location: str, status: str = "302 Found") -> Answer:
    return answer(b"", status, f"Location: {location}")


def raw(data: bytes, *, then_wait: bool = False) -> Answer:
    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        if then_wait:
            await asyncio.Event().wait()

    return write


class Servers:
    """Starts servers and closes them, with what hangs on them, at the end of a test."""

    def __init__(self) -> None:
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, *answers: Answer, tls: ssl.SSLContext | None = None) -> Server:
        server = Server()
        left = list(answers)

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            server.heads.append(await reader.readuntil(b"\r\n\r\n"))
            server.num_open += 1
            server.max_open = max(server.max_open, server.num_open)
            try:
                await (left.pop(0) if len(left) > 1 else left[0])(writer)
            finally:
                server.num_open -= 1
                writer.close()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(talk(reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        listener = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
        self._servers.append(listener)
        server.port = listener.sockets[0].getsockname()[1]
        return server

    async def close(self) -> None:
        for listener in self._servers:
            listener.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


MakeFetcher = Callable[..., MediaFetcher]


@asynccontextmanager
async def running_servers() -> AsyncIterator[Servers]:
    started = Servers()
    yield started
    await started.close()


@asynccontextmanager
async def made_fetchers(resolver: Resolver) -> AsyncIterator[MakeFetcher]:
    made: list[MediaFetcher] = []

    def make(**options: object) -> MediaFetcher:
        settings: dict[str, object] = {
            "http_allowed": True,
            "allowed_domains": (),
            "connect_timeout_s": 5.0,
            "total_timeout_s": 20.0,
            "max_redirects": 2,
            "max_parallel": 4,
            "resolve": resolver,
            "is_allowed": lambda address: address == LOOPBACK or is_public_address(address),
        }
        made.append(MediaFetcher(**(settings | options)))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for fetcher in made:
        await fetcher.close()


async def fetch(fetcher: MediaFetcher, url: str, max_bytes: int = len(BODY)) -> bytes:
    return await fetcher.fetch(url, max_bytes=max_bytes, param="messages[0].content[1]")


async def assert_error(
    fetcher: MediaFetcher, url: str, kind: type[MediaError], code: str, max_bytes: int = len(BODY)
) -> str:
    with pytest.raises(kind) as failure:
        await fetch(fetcher, url, max_bytes)
    assert failure.value.code == code
    assert failure.value.param == "messages[0].content[1]"
    assert "127.0.0.1" not in failure.value.message
    return failure.value.message
