"""The API keys that count now: those of the file, read again when it has changed."""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from server.access.key_file import KeyFileError, KeySet, Stamp, read_keys, read_stamp
from server.settings import SettingsError

logger = logging.getLogger(__name__)

_CHECK_INTERVAL_S = 1.0


class KeyRing:
    """To be used from one event loop. A file that cannot be used leaves the keys as they were.

    Args:
        clock: seconds, monotonic.
    Raises: SettingsError if the file cannot be used from the start.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._reloading = asyncio.Lock()
        self._stamp: Stamp | None
        self._keys, self._stamp = load_keys(path)
        self._checked_s = clock()
        _warn_of(self._path, self._keys)

    async def current(self) -> KeySet:
        """The keys, those of a second ago at worst."""
        if self._clock() - self._checked_s >= _CHECK_INTERVAL_S:
            await self.refresh()
        return self._keys

    async def refresh(self, *, is_forced: bool = False) -> None:
        """Read the file if it has changed, or in any case."""
        self._checked_s = self._clock()
        stamp = self._read_stamp()
        if stamp == self._stamp and not is_forced:
            return
        async with self._reloading:
            self._stamp = stamp  # one that is broken is reported once
            try:
                self._keys, self._stamp = await asyncio.to_thread(read_keys, self._path)
            except KeyFileError as error:
                logger.error("the API keys stay as they are: %s", error)
                return
        logger.info("%d API keys are read again", len(self._keys.entries))
        _warn_of(self._path, self._keys)

    def _read_stamp(self) -> Stamp | None:
        try:
            return read_stamp(self._path)
        except OSError:
            return None


def load_keys(path: Path) -> tuple[KeySet, Stamp]:
    """Raises: SettingsError."""
    try:
        return read_keys(path)
    except KeyFileError as error:
        raise SettingsError(f"access.api_keys_file: {error}") from None


def _warn_of(path: Path, keys: KeySet) -> None:
    if not keys.entries:
        logger.warning("%s holds no API key: nobody can use the server", path)
    if keys.is_readable:
        logger.warning("other users may read %s, the names of the keys for example", path)
