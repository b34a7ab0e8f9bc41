"""Who may fetch now: so many in all, and so many of them from one host."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from server.turns import Turns


class _HostSlots:
    def __init__(self, max_parallel: int) -> None:
        self.turns = Turns(max_parallel)
        self.num_users = 0  # who hold one or wait for one


class FetchSlots:
    """Clients take turns at both, see `Turns`.

    Args: max_parallel: over all hosts. max_parallel_per_host: hosts go by their names.
    """

    def __init__(self, max_parallel: int, max_parallel_per_host: int) -> None:
        self._all = Turns(max_parallel)
        self._max_per_host = max_parallel_per_host
        self._hosts: dict[bytes, _HostSlots] = {}

    @asynccontextmanager
    async def take(self, host: bytes, client_id: str) -> AsyncIterator[None]:
        """Wait for the host's first: whoever waits for a slow host keeps nobody from the others."""
        slots = self._hosts.setdefault(host, _HostSlots(self._max_per_host))
        slots.num_users += 1
        try:
            async with slots.turns.turn(client_id), self._all.turn(client_id):
                yield
        finally:
            slots.num_users -= 1
            if not slots.num_users:
                del self._hosts[host]
