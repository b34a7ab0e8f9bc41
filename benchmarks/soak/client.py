"""Sends the requests of a soak, each in the manner of its client."""

import asyncio
from collections import Counter
from contextlib import suppress
from urllib.parse import urlsplit

import aiohttp
import orjson

from benchmarks.soak.kinds import Kinds, SoakRequest

_TIMEOUT_S = 300.0
_READ_BYTES = 512
_DAWDLE_S = 0.1
_NO_ANSWER = "no answer"
_JSON = {"Content-Type": "application/json"}


class SoakClient:
    """Keeps `concurrency` requests under way until `num_requests` have ended.

    Attributes:
        num_ended: so far, however they ended.
        counts: by kind and what came of it, a status or `no answer`.
        unexpected: the same of answers that should have been others.
    """

    def __init__(self, base_url: str, kinds: Kinds, num_requests: int, concurrency: int) -> None:
        self._base_url, self._kinds = base_url, kinds
        self._num_left, self._concurrency = num_requests, concurrency
        self.num_ended = 0
        self.counts: Counter[str] = Counter()
        self.unexpected: Counter[str] = Counter()

    async def run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=connector) as session,
            asyncio.TaskGroup() as tasks,
        ):
            for _ in range(self._concurrency):
                tasks.create_task(self._send_many(session))

    async def _send_many(self, session: aiohttp.ClientSession) -> None:
        while self._num_left > 0:
            self._num_left -= 1
            name, request = self._kinds.draw()
            result = await self._send(session, request)
            self.counts[f"{name}: {result}"] += 1
            if result not in request.statuses and result != request.manner:
                self.unexpected[f"{name}: {result}"] += 1
            self.num_ended += 1

    async def _send(self, session: aiohttp.ClientSession, request: SoakRequest) -> int | str:
        """The status, or the manner of a client that does not wait for the end of the answer."""
        try:
            if request.manner == "breaks_off":
                return await self._break_off(request)
            body = orjson.dumps(request.body)
            url = self._base_url + request.path
            async with session.post(url, data=body, headers={**_JSON, **request.headers}) as answer:
                return await _read(answer, request)
        except (aiohttp.ClientError, OSError, TimeoutError):
            return _NO_ANSWER

    async def _break_off(self, request: SoakRequest) -> str:
        """Half of the body, then the end of the connection."""
        address, body = urlsplit(self._base_url), orjson.dumps(request.body)
        _, writer = await asyncio.open_connection(address.hostname, address.port)
        head = (
            f"POST {request.path} HTTP/1.1\r\nHost: soak\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body[: len(body) // 2])
        with suppress(ConnectionError):
            await writer.drain()
        writer.transport.abort()
        return request.manner


async def _read(answer: aiohttp.ClientResponse, request: SoakRequest) -> int | str:
    if request.manner == "leaves" and answer.status == 200:
        await answer.content.readany()
        answer.close()
        return request.manner
    if request.manner == "dawdles":
        while await answer.content.read(_READ_BYTES):
            await asyncio.sleep(_DAWDLE_S)
    else:
        content = await answer.read()
        if answer.status == 200 and b'"error": {' in content:
            return "error in the stream"
    return answer.status
