"""Whether a series grows with the requests: a robust slope, and bounds around it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Verdict = Literal["flat", "grows", "undecided"]
MIN_POINTS = 6
_Z = 1.96  # of a 95 % interval
_MAX_POINTS = 400  # pairs are looked at: 80,000 of them


@dataclass(frozen=True, slots=True)
class Trend:
    """Units per request. `low` and `high` are the bounds of a 95 % interval."""

    slope: float
    low: float
    high: float

    def judge(self, limit: float) -> Verdict:
        """Flat if it is known to stay below the limit, growing if it is known to exceed it."""
        if self.high <= limit:
            return "flat"
        return "grows" if self.low > limit else "undecided"


def fit_trend(num_requests: Sequence[float], values: Sequence[float]) -> Trend | None:
    """Theil and Sen's slope, the median of those between all pairs: peaks do not move it.

    The bounds are Sen's, by the variance of Kendall's statistic. They take the points for
    independent, so memory that wanders, instead of jumping, has wider ones in truth.

    Returns: None for fewer than `MIN_POINTS` points.
    """
    if len(values) < MIN_POINTS:
        return None
    picked = np.unique(np.linspace(0, len(values) - 1, _MAX_POINTS).round().astype(int))
    x, y = np.asarray(num_requests, float)[picked], np.asarray(values, float)[picked]
    first, second = np.triu_indices(len(x), 1)
    runs = x[second] - x[first]
    slopes = np.sort((y[second] - y[first])[runs > 0] / runs[runs > 0])
    if not len(slopes):
        return None
    n = len(x)
    spread = _Z * math.sqrt(n * (n - 1) * (2 * n + 5) / 18) / 2
    low = max(0, math.floor(len(slopes) / 2 - spread))
    high = min(len(slopes) - 1, math.ceil(len(slopes) / 2 + spread))
    return Trend(float(np.median(slopes)), float(slopes[low]), float(slopes[high]))
