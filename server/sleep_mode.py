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

    async def fall_asleep(self, engine: Engine, level: SleepLevel) -> None:
        """Refuse new requests at once; those accepted get `server.shutdown_timeout_s` to finish.

        Raises: Conflict if the engine sleeps at another level; EngineDead.
        """
        async with self._lock:
            state = self._state
            if state.sleep_level not in (None, level):
                raise Conflict(
                    f"the engine sleeps at level {state.sleep_level}; wake it first", "sleeping"
                )
            if state.sleep_level == level:
                return
            grace_s = state.settings.server.shutdown_timeout_s
            state.fall_asleep(level, grace_s)
            await state.wait_until_idle(grace_s + _END_TIMEOUT_S)
            if not state.is_asleep:
                raise Conflict("the engine has been started again meanwhile", "restarted")
            await engine.sleep(level)
            logger.info("the engine sleeps at level %d", level)

    async def wake_up(self, engine: Engine, parts: Collection[SleepPart]) -> bool:
        """Returns: whether requests are accepted again. Raises: EngineDead."""
        async with self._lock:
            if self._state.is_asleep and await engine.wake_up(parts):
                self._state.wake()
                logger.info("the engine is awake")
            return not self._state.is_asleep
