"""What the engines report of the vision cache, for all processes of a server.

vLLM tells it to one of the processes that share an engine; whose request waits for patches, and
who is asked for metrics, may be another.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio

logger = logging.getLogger(__name__)

Read = Callable[[int, Mapping[str, Any]], None]


class ReportExchange:
    """One for each process; to be made in its event loop.

    Args:
        folder: for the sockets; the same for all processes.
        index, count: of this process, of all.
        read: called with the index of an engine and what it has told another process.
    """

    def __init__(self, folder: Path, index: int, count: int, read: Read) -> None:
        self._read = read
        self._context: zmq.Context[Any] = zmq.Context()
        self._inbox = zmq.asyncio.Context(self._context).socket(zmq.PULL)
        self._inbox.bind(_address(folder, index))
        self._others = [
            self._connect(_address(folder, other)) for other in range(count) if other != index
        ]
        self._task = asyncio.create_task(self._receive())

    def send(self, engine_index: int, report: Mapping[str, Any]) -> None:
        """Tell the other processes. Never waits: one that does not listen misses it."""
        for socket in self._others:
            with suppress(zmq.Again):
                socket.send_json((engine_index, report), zmq.NOBLOCK)

    def close(self) -> None:
        self._task.cancel()
        for socket in (self._inbox, *self._others):
            socket.close(linger=0)

    def _connect(self, address: str) -> "zmq.Socket[bytes]":
        socket: zmq.Socket[bytes] = self._context.socket(zmq.PUSH)
        socket.connect(address)  # also before the other process binds it
        return socket

    async def _receive(self) -> None:
        while True:
            engine_index, report = await self._inbox.recv_json()
            try:
                self._read(engine_index, report)
            except Exception:
                logger.exception("a report of engine %d cannot be read", engine_index)


def _address(folder: Path, index: int) -> str:
    return f"ipc://{folder}/reports-{index}"
