"""What is limited for all requests together, shared out between clients."""

from collections import Counter

_TIMES_LEFT = 7


class FairShares:
    """So many of something, places or bytes; a client that floods cannot take them all.

    A client may have seven times as much as it leaves over: alone it gets seven eighths, two of
    them get seven fifteenths each, and whoever comes next finds something. `least` or less of it
    is given to any client as long as it is there.
    """

    def __init__(self, limit: int, least: int) -> None:
        self._least = least
        self._num_left = limit
        self._taken: Counter[str] = Counter()  # by client id

    def take(self, client_id: str, amount: int = 1) -> bool:
        """Whether the client gets it; if not, nothing has changed."""
        has, num_left = self._taken[client_id] + amount, self._num_left - amount
        if num_left < 0 or has > max(self._least, _TIMES_LEFT * num_left):
            self._forget_if_none(client_id)
            return False
        self._taken[client_id], self._num_left = has, num_left
        return True

    def give_back(self, client_id: str, amount: int = 1) -> None:
        self._taken[client_id] -= amount
        self._num_left += amount
        self._forget_if_none(client_id)

    def _forget_if_none(self, client_id: str) -> None:
        if self._taken[client_id] == 0:
            del self._taken[client_id]
