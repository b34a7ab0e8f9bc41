"""Latencies of requests and how they are distributed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self, get_args

import numpy as np

from benchmarks.load.record import RequestRecord

MetricName = Literal["ttft", "ttfa", "itl", "tpot", "e2e"]
METRICS: tuple[MetricName, ...] = get_args(MetricName)
StatName = Literal["mean", "p50", "p90", "p95", "p99", "max"]
STATS: tuple[StatName, ...] = get_args(StatName)


@dataclass(frozen=True, slots=True)
class Distribution:
    """Of seconds; `count` values."""

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Raises: IndexError of nothing."""
        array = np.asarray(values)
        p50, p90, p95, p99 = (float(value) for value in np.percentile(array, (50, 90, 95, 99)))
        return cls(len(values), float(array.mean()), p50, p90, p95, p99, float(array.max()))


def latencies(record: RequestRecord, metric: MetricName) -> tuple[float, ...]:
    """What an answered request says of a metric, in seconds; `itl` is one value a gap.

    `ttft` is the time to the first token, `ttfa` to the first one of the answer, `itl` between two
    chunks, `tpot` for each token after the first, `e2e` for all of it.
    """
    if metric == "itl":
        return record.gaps_s
    value: float | None = getattr(record, f"{metric}_s")
    return () if value is None else (value,)


def distributions(records: Iterable[RequestRecord]) -> Mapping[MetricName, Distribution]:
    """Of answered requests; a metric that none of them has is left out."""
    answered = [record for record in records if record.is_ok]
    values = {m: [value for r in answered for value in latencies(r, m)] for m in METRICS}
    return {metric: Distribution.of(found) for metric, found in values.items() if found}
