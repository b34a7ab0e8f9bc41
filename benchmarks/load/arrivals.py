"""When requests are sent: so many at once, or so many a second."""

from collections.abc import Iterator, Sequence
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


def arrival_times(load: OpenLoop, share: float, seed: Sequence[int]) -> Iterator[float]:
    """Seconds since the start at which conversations begin, `share` of the request rate."""
    generator = np.random.default_rng(seed)
    scale_s = 1 / (load.request_rate * share * load.burstiness)
    time_s = 0.0
    while True:
        yield time_s
        time_s += float(generator.gamma(load.burstiness, scale_s))
