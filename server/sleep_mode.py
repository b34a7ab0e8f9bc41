"""Sleep and waking of the engine, as the server does them: no request is answered in between."""

import asyncio
import logging
from collections.abc import Collection

from server.engine import Engine, SleepLevel, SleepPart
from server.errors import Conflict
from server.state import ServerState

logger = logging.getLogger(__name__)

_END_TIMEOUT_S = 5  # for requests whose time is over to tell their clients so


class SleepMode:
    """One sleep at a time; calls wait for each other."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._lock = asyncio.Lock()
        self._level: SleepLevel | None = None

    async def fall_asleep(self, engine: Engine, level: SleepLevel) -> None:
        """Refuse new requests at once; those accepted get `server.shutdown_timeout_s` to finish.

        Raises: Conflict if the engine sleeps at another level; EngineDead.
        """
        async with self._lock:
            if self._level not in (None, level):
                raise Conflict(
                    f"the engine sleeps at level {self._level}; wake it first", "sleeping"
                )
            if self._level == level:
                return
            self._level = level
            grace_s = self._state.settings.server.shutdown_timeout_s
            self._state.fall_asleep(grace_s)
            await self._state.wait_until_idle(grace_s + _END_TIMEOUT_S)
            await engine.sleep(level)
            logger.info("the engine sleeps at level %d", level)

    async def wake_up(self, engine: Engine, parts: Collection[SleepPart]) -> bool:
        """Returns: whether requests are accepted again. Raises: EngineDead."""
        async with self._lock:
            if self._level is not None and await engine.wake_up(parts):
                self._level = None
                self._state.wake()
                logger.info("the engine is awake")
            return self._level is None
