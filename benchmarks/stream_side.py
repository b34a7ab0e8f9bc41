"""A process that streams answers of one server's application, and says what they took.

It reads a piece of work a line and answers with a line that starts with `ANSWER_MARK`, both JSON.
"""

import asyncio
import gc
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.preparation import ANSWER_MARK
from benchmarks.stream_engine import StepEngine
from benchmarks.stream_work import Work, read_message

App = Callable[..., Awaitable[None]]  # an ASGI application


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds while the clock ran; what was sent in all."""

    cpu_s: float
    wall_s: float
    num_bodies: int
    num_bytes: int


async def answer(find_app: Callable[[Work], tuple[App, StepEngine]]) -> None:
    """Until stdin ends.

    Args:
        find_app: the application that does a piece of work, and the engine that it generates with.
    """
    gc.collect()
    gc.freeze()  # as vLLM does when it starts: what has been imported is not looked through again
    while line := await asyncio.to_thread(sys.stdin.readline):
        work = Work(**json.loads(line))
        run = await measure(*find_app(work), work)
        print(f"{ANSWER_MARK}{json.dumps(asdict(run))}", flush=True)


async def measure(app: App, engine: StepEngine, work: Work) -> Run:
    """Raises: RuntimeError if a client does not get what the engine said."""
    request, expected = work.request_body(), work.expected()
    async with asyncio.TaskGroup() as group:
        answers = [group.create_task(_post(app, request)) for _ in range(work.num_streams)]
        playing = group.create_task(engine.play(work))
    for sent in answers:
        message = read_message(sent.result())
        if not message.is_like(expected):
            raise RuntimeError(f"{work}: got {message}, expected {expected}")
    bodies = [body for sent in answers for body in sent.result()]
    seconds = playing.result()
    return Run(seconds.cpu, seconds.wall, len(bodies), sum(map(len, bodies)))


async def _post(app: App, body: bytes) -> list[bytes]:
    """The bodies that are sent, unless they are empty.

    `send` never waits, like a server's whose client reads fast enough.
    """
    requests = [{"type": "http.request", "body": body, "more_body": False}]
    statuses: list[int] = []
    bodies: list[bytes] = []

    async def receive() -> dict[str, Any]:
        return requests.pop() if requests else await asyncio.Future()

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            bodies.append(message["body"])
        else:
            statuses.append(message["status"])

    await app(_scope(body), receive, send)
    if statuses != [200]:
        raise RuntimeError(f"HTTP {statuses}: {b''.join(bodies)[:500]!r}")
    return [body for body in bodies if body]


def _scope(body: bytes) -> dict[str, Any]:
    """As uvicorn makes it."""
    headers = [
        (b"host", b"127.0.0.1:8000"),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50000),
        "scheme": "http",
        "method": "POST",
        "root_path": "",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "query_string": b"",
        "headers": headers,
        "state": {},
    }
