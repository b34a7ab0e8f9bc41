"""An allowance per minute that comes back evenly."""

from collections.abc import Callable

_SECONDS_PER_MINUTE = 60.0


class TokenBucket:
    """Full at first. What is taken may exceed what is there: the debt has to come back first.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._level = float(per_minute)
        self._at_s = clock()

    @property
    def level(self) -> float:
        """What is there now."""
        now_s = self._clock()
        gained = (now_s - self._at_s) * self.per_minute / _SECONDS_PER_MINUTE
        self._level, self._at_s = min(self._level + gained, float(self.per_minute)), now_s
        return self._level

    def take(self, amount: int) -> None:
        self._level = self.level - amount

    def resize(self, per_minute: int) -> None:
        """What has been used up stays used up."""
        self._level = self.level + per_minute - self.per_minute
        self.per_minute = per_minute

    def seconds_until(self, level: float) -> float:
        """From now, if nothing is taken; to the millisecond."""
        missing = max(0.0, level - self.level)
        return round(missing * _SECONDS_PER_MINUTE / self.per_minute, 3)
