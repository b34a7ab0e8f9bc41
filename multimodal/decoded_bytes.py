"""The memory that all requests which are loading media hold together."""

import threading

from multimodal.errors import MediaOverload


class DecodedBytes:
    """An account of RGB bytes, shared by the threads of all requests."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_taken = 0
        self._lock = threading.Lock()

    def take(self, num_bytes: int) -> None:
        """Raises: MediaOverload, at once, if too many are taken already."""
        with self._lock:
            if self._num_taken + num_bytes > self._max_bytes:
                raise MediaOverload(
                    "the media of this and other requests would exceed max_total_decoded_bytes "
                    f"({self._max_bytes})",
                    "overloaded",
                )
            self._num_taken += num_bytes

    def give_back(self, num_bytes: int) -> None:
        with self._lock:
            self._num_taken -= num_bytes
