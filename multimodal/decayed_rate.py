"""How fast something went lately."""


class DecayedRate:
    """Bytes per second over about the ten last observations. Not thread-safe."""

    _DECAY = 0.9
    _MIN_OBSERVED = 8

    def __init__(self) -> None:
        self._num_bytes = 0.0
        self._seconds = 0.0
        self._num_observed = 0

    def observe(self, num_bytes: int, seconds: float) -> None:
        self._num_bytes = self._num_bytes * self._DECAY + num_bytes
        self._seconds = self._seconds * self._DECAY + seconds
        self._num_observed += 1

    @property
    def bytes_per_s(self) -> float | None:
        """None before the eighth observation."""
        if self._num_observed < self._MIN_OBSERVED or self._seconds <= 0:
            return None
        return self._num_bytes / self._seconds
