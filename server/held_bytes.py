"""The encoded bytes that requests hold: bodies while they are read and parsed, media to the end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from server.errors import Overloaded
from server.fair_shares import FairShares

Hold = Callable[[int], None]  # `HeldBytes.take`


def hold_freely(num_bytes: int) -> None:
    """Where nothing is counted: in benchmarks."""


class HeldBytes:
    """The account of one request; see `BodyBytes.account`."""

    def __init__(self, shares: FairShares, client_id: str, max_bytes: int) -> None:
        self.client_id = client_id
        self.num_bytes = 0
        self._shares = shares
        self._max_bytes = max_bytes

    def take(self, num_bytes: int) -> None:
        """Raises: Overloaded, at once."""
        if not self._shares.take(self.client_id, num_bytes):
            raise Overloaded(
                "the bodies and media of this and other requests would exceed "
                f"max_total_body_bytes ({self._max_bytes}), or this client's share of them",
                "overloaded",
            )
        self.num_bytes += num_bytes

    def give_back(self, num_bytes: int) -> None:
        self.num_bytes -= num_bytes
        self._shares.give_back(self.client_id, num_bytes)


class BodyBytes:
    """`server.max_total_body_bytes`, shared out between clients.

    Args:
        max_body_bytes: what every client may hold, as long as there is room.
    """

    def __init__(self, max_bytes: int, max_body_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._shares = FairShares(max_bytes, least=max_body_bytes)

    @contextmanager
    def account(self, client_id: str) -> Iterator[HeldBytes]:
        """Of one request; what it holds is given back at the end of the block."""
        held = HeldBytes(self._shares, client_id, self._max_bytes)
        try:
            yield held
        finally:
            held.give_back(held.num_bytes)
