"""Service level objectives: `ttft_p99=500ms,tpot_p99=50ms`."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.load.latency import METRICS, STATS, MetricName, StatName, latencies
from benchmarks.load.record import RequestRecord

_BOUND = re.compile(rf"({'|'.join(METRICS)})_({'|'.join(STATS)})=(\d+(?:\.\d+)?)(ms|s)")
_SECONDS = {"ms": 1e-3, "s": 1.0}


class SloError(ValueError):
    """It cannot be read."""


@dataclass(frozen=True, slots=True)
class Bound:
    """At most `limit_s`. A single request is held against the same limit."""

    metric: MetricName
    stat: StatName
    limit_s: float

    @property
    def name(self) -> str:
        return f"{self.metric}_{self.stat}"


@dataclass(frozen=True, slots=True)
class Slo:
    text: str
    bounds: tuple[Bound, ...]


@dataclass(frozen=True, slots=True)
class Goodput:
    """How an SLO was kept.

    Attributes:
        measured_s: of each bound, failed requests counting as endless (None).
        share: of requests that keep every bound themselves.
        requests: the same per second.
    """

    slo: str
    is_held: bool
    measured_s: Mapping[str, float | None]
    share: float
    requests: float


def parse_slo(text: str) -> Slo:
    """Raises: SloError."""
    bounds = tuple(_parse_bound(part.strip()) for part in text.split(","))
    if len({bound.name for bound in bounds}) < len(bounds):
        raise SloError(f"{text!r} has two limits of one kind")
    return Slo(text, bounds)


def _parse_bound(text: str) -> Bound:
    match = _BOUND.fullmatch(text)
    if match is None:
        raise SloError(
            f"{text!r} is not METRIC_STAT=TIME, with METRIC of {', '.join(METRICS)}, STAT of "
            f"{', '.join(STATS)} and TIME as in 500ms or 1.5s"
        )
    metric, stat, number, unit = match.groups()
    return Bound(metric, stat, float(number) * _SECONDS[unit])  # type: ignore[arg-type]


def measure_goodput(slo: Slo, records: Sequence[RequestRecord], duration_s: float) -> Goodput:
    measured = {bound.name: _measure(bound, records) for bound in slo.bounds}
    held = [
        value is not None and value <= b.limit_s
        for b, value in zip(slo.bounds, measured.values(), strict=True)
    ]
    kept = sum(_keeps(record, slo) for record in records)
    share = kept / len(records) if records else 0.0
    return Goodput(slo.text, all(held), measured, share, kept / duration_s)


def _measure(bound: Bound, records: Sequence[RequestRecord]) -> float | None:
    """What never came is endless, as often as it came in other requests."""
    found = [_values(record, bound.metric) for record in records]
    came = [values for values in found if values]
    num_each = round(np.mean([len(values) for values in came])) if came else 1
    values = [value for values in came for value in values]
    values += [math.inf] * num_each * sum(values is None for values in found)
    value = _stat(values, bound.stat) if values else math.inf
    return value if math.isfinite(value) else None


def _values(record: RequestRecord, metric: MetricName) -> tuple[float, ...] | None:
    """None for what should have come; an answer of one token has no time between tokens."""
    values = latencies(record, metric)
    is_missing = not record.is_ok or (metric == "ttfa" and not values)
    return None if is_missing else values


def _stat(values: Sequence[float], stat: StatName) -> float:
    if stat == "mean":
        return float(np.mean(values))
    percent = 100.0 if stat == "max" else float(stat.removeprefix("p"))
    # one of the values: there is nothing between a time and none
    return float(np.percentile(values, percent, method="inverted_cdf"))


def _keeps(record: RequestRecord, slo: Slo) -> bool:
    return all(_keeps_bound(_values(record, b.metric), b.limit_s) for b in slo.bounds)


def _keeps_bound(values: Sequence[float] | None, limit_s: float) -> bool:
    return values is not None and all(value <= limit_s for value in values)
