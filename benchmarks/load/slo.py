"""Service level objectives: `ttft_p99=500ms,tpot_p99=50ms`."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.load.latency import METRICS, STATS, Distribution, MetricName, StatName, latencies
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
    return Slo(text, tuple(_parse_bound(part.strip()) for part in text.split(",")))


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
    values = [value for r in records if r.is_ok for value in latencies(r, bound.metric)]
    values += [math.inf for r in records if not r.is_ok]
    if not values:
        return None
    with np.errstate(invalid="ignore"):  # between two that never ended
        value: float = getattr(Distribution.of(values), bound.stat)
    return value if math.isfinite(value) else None


def _keeps(record: RequestRecord, slo: Slo) -> bool:
    return record.is_ok and all(
        value <= bound.limit_s for bound in slo.bounds for value in latencies(record, bound.metric)
    )
