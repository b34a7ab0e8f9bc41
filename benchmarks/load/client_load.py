"""How busy the client itself was: whether it can be trusted with what it measured."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import numpy as np

_INTERVAL_S = 0.01
MAX_CPU_SHARE = 0.8
MAX_LAG_S = 0.005


@dataclass(frozen=True, slots=True)
class ClientLoad:
    """Attributes:
    cpu_share: CPU time of this process by wall time; one core is all it can use.
    lag_p99_s: how much later than asked for the event loop woke up.
    send_delay_p99_s: from when a request was due until it was sent.
    """

    cpu_share: float
    lag_p99_s: float
    send_delay_p99_s: float

    @property
    def is_limit(self) -> bool:
        """Whether the numbers are the client's rather than the server's."""
        return (
            self.cpu_share > MAX_CPU_SHARE
            or self.lag_p99_s > MAX_LAG_S
            or self.send_delay_p99_s > MAX_LAG_S
        )


@dataclass(slots=True)
class LoadMeter:
    """Filled while `metered` runs."""

    cpu_share: float = 0.0
    lags_s: list[float] = field(default_factory=list)

    def read(self, send_delays_s: list[float]) -> ClientLoad:
        return ClientLoad(self.cpu_share, _p99(self.lags_s), _p99(send_delays_s))


@asynccontextmanager
async def metered() -> AsyncIterator[LoadMeter]:
    """Measure this process during a block."""
    meter = LoadMeter()
    watch = asyncio.create_task(_watch(meter.lags_s))
    cpu_s, start_s = time.process_time(), time.perf_counter()
    try:
        yield meter
    finally:
        meter.cpu_share = (time.process_time() - cpu_s) / (time.perf_counter() - start_s)
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch


async def _watch(lags_s: list[float]) -> None:
    while True:
        due_s = time.perf_counter() + _INTERVAL_S
        await asyncio.sleep(_INTERVAL_S)
        lags_s.append(max(0.0, time.perf_counter() - due_s))


def _p99(values: list[float]) -> float:
    return float(np.percentile(values, 99)) if values else 0.0
