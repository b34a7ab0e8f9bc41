"""When requests are sent: so many at once, or so many a second."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """`concurrency` users, each of whom asks again once answered."""

    concurrency: int

    @property
    def label(self) -> str:
        return f"{self.concurrency} at once"


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """`request_rate` requests a second, whether or not the server keeps up.

    Attributes:
        burstiness: shape of the gamma distribution of the gaps: 1 is a Poisson process, less comes
            in bursts, more is more even.
    """

    request_rate: float
    burstiness: float = 1.0

    @property
    def label(self) -> str:
        bursts = "" if self.burstiness == 1 else f", burstiness {self.burstiness:g}"
        return f"{self.request_rate:g} requests/s{bursts}"


Load = ClosedLoop | OpenLoop
_TINY = np.finfo(float).tiny  # bursts can be so extreme that all gaps are 0


def arrival_times(load: OpenLoop, share: float, num: int, seed: Sequence[int]) -> Sequence[float]:
    """Seconds since the start at which `num` conversations begin, `share` of the request rate.

    Stretched so that the rate is the one asked for, however few there are.
    """
    if num == 1:
        return [0.0]
    gaps = np.random.default_rng(seed).gamma(load.burstiness, size=num - 1)
    times_s = np.concatenate([[0.0], np.cumsum(gaps)])
    wanted_s = (num - 1) / (load.request_rate * share)
    return [float(time_s) for time_s in times_s * (wanted_s / max(times_s[-1], _TINY))]
