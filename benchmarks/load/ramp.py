"""Searches the highest request rate that keeps an SLO, of one server or of several at once."""

from collections.abc import Sequence
from dataclasses import dataclass

_GROWTH = 2.0
_PRECISION = 1.1
_LOWEST_SHARE = 1 / 64  # of the first rate: below it the search gives up


@dataclass(slots=True)
class _Range:
    """`held`: the highest rate that kept it; `failed`: the lowest that did not."""

    held: float | None = None
    failed: float | None = None

    def add(self, rate: float, is_held: bool) -> None:
        if is_held:
            self.held = max(rate, self.held or rate)
        else:
            self.failed = min(rate, self.failed or rate)

    def next_rate(self, lowest: float) -> float | None:
        """Requests/s; None if the end is found."""
        if self.failed is None:
            return None if self.held is None else self.held * _GROWTH
        if self.held is None:
            return self.failed / _GROWTH if self.failed > lowest else None
        return (self.failed * self.held) ** 0.5 if self.failed > self.held * _PRECISION else None


class Ramp:
    """Doubles the rate until the SLO breaks, then halves the distance until it is 10 %.

    Every rate is asked of all servers, so that they can be compared at each.
    """

    def __init__(self, first_rate: float, num_targets: int) -> None:
        self._first_rate = first_rate
        self._ranges = [_Range() for _ in range(num_targets)]
        self._is_begun = False

    @property
    def highest(self) -> Sequence[float | None]:
        """Requests/s for each server; None if no rate that was tried kept the SLO."""
        return [found.held for found in self._ranges]

    def next_rate(self) -> float | None:
        """Requests/s to be tried; None at the end."""
        if not self._is_begun:
            return self._first_rate
        lowest = self._first_rate * _LOWEST_SHARE
        rates = (found.next_rate(lowest) for found in self._ranges)
        return next((rate for rate in rates if rate is not None), None)

    def add(self, rate: float, held: Sequence[bool]) -> None:
        self._is_begun = True
        for found, is_held in zip(self._ranges, held, strict=True):
            found.add(rate, is_held)
