"""`engine.restart_engine`: an engine that has died is started again in the same process."""

import asyncio
import gc
import logging
from collections.abc import Callable
from time import monotonic

from server.engine import Engine
from server.state import ServerState

logger = logging.getLogger(__name__)

_END_TIMEOUT_S = 10.0  # for requests to tell their clients that the engine is gone
_MAX_FAILURES = 5  # in a row
_STABLE_S = 600.0  # an engine that has run for so long begins a new row


class RestartPauses:
    """How long to wait before each start: not at all at first, then longer and longer.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._num_failures = 0
        self._running_since_s: float | None = clock()

    def next_pause_s(self) -> float | None:
        """After a death, or a start that has failed. None: there have been too many in a row."""
        since_s, self._running_since_s = self._running_since_s, None
        if since_s is not None and self._clock() - since_s >= _STABLE_S:
            self._num_failures = 0
        self._num_failures += 1
        if self._num_failures > _MAX_FAILURES:
            return None
        return 0.0 if self._num_failures == 1 else 2.0 ** (self._num_failures - 2)

    def note_start(self) -> None:
        self._running_since_s = self._clock()


class EngineRestarts:
    """Of the engine of one server."""

    def __init__(self, state: ServerState, pauses: RestartPauses | None = None) -> None:
        self._state = state
        self._pauses = pauses or RestartPauses()

    async def restart(self, engine: Engine) -> bool:
        """Start a dead engine until it runs; meanwhile, no request is accepted.

        Returns: False if that has failed too often.
        """
        with self._state.restarting():
            await self._state.wait_until_idle(_END_TIMEOUT_S)
            while (pause_s := self._pauses.next_pause_s()) is not None:
                logger.warning("the engine has stopped; starting it again in %g s", pause_s)
                await asyncio.sleep(pause_s)
                try:
                    await engine.restart()
                except Exception:
                    logger.exception("the engine cannot be started again")
                    continue
                self._pauses.note_start()
                freeze_garbage()
                logger.warning("the engine runs again")
                return True
        return False


def freeze_garbage() -> None:
    """Collect once, then leave what is there alone: a full collection of what is imported would
    stop all streams for 0.3 s or more."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
