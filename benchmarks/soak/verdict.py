"""The judgement of a soak: every process's memory, descriptors and threads, and the answers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.soak.sample import Sample
from benchmarks.soak.trend import Trend, Verdict, fit_trend

# Per request. What 20,000 requests may add: 10 MiB of memory, 20 descriptors or threads.
LIMITS: Mapping[str, float] = {"uss_bytes": 512.0, "num_fds": 0.001, "num_threads": 0.001}


@dataclass(frozen=True, slots=True)
class SeriesVerdict:
    """Of one quantity of one role, behind the warm-up.

    Attributes:
        limit: of its growth, per request.
        first, last: medians of the first and the last tenth of the samples.
        verdict: undecided also where there are too few samples.
    """

    role: str
    quantity: str
    limit: float
    first: float
    last: float
    largest: float
    trend: Trend | None
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class SoakVerdict:
    """`unexpected`: how many answers of each kind were not what they had to be."""

    series: Sequence[SeriesVerdict]
    unexpected: Mapping[str, int] = field(default_factory=dict)
    num_left: float | None = 0

    @property
    def holds(self) -> bool:
        """Whether all is flat, every answer as expected, and nothing under way at the end."""
        is_flat = bool(self.series) and all(one.verdict == "flat" for one in self.series)
        return is_flat and not self.unexpected and self.num_left == 0

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "holds": self.holds}


def judge(
    samples: Sequence[Sample], warm_up_requests: int, unexpected: Mapping[str, int]
) -> SoakVerdict:
    """Args: warm_up_requests: so many fill caches and pools, and are not looked at."""
    steady = [sample for sample in samples if sample.num_requests >= warm_up_requests]
    roles = sorted({role for sample in steady for role in sample.uses})
    series = [_judge_series(steady, role, quantity) for role in roles for quantity in LIMITS]
    # `asdict` cannot copy a Counter
    return SoakVerdict(series, dict(unexpected), samples[-1].num_in_flight if samples else None)


def _judge_series(samples: Sequence[Sample], role: str, quantity: str) -> SeriesVerdict:
    points = [
        (sample.num_requests, float(getattr(sample.uses[role], quantity)))
        for sample in samples
        if role in sample.uses
    ]
    requests, values = zip(*points, strict=True)
    trend, limit = fit_trend(requests, values), LIMITS[quantity]
    tenth = max(1, len(values) // 10)
    return SeriesVerdict(
        role,
        quantity,
        limit,
        first=_median(values[:tenth]),
        last=_median(values[-tenth:]),
        largest=max(values),
        trend=trend,
        verdict="undecided" if trend is None else trend.judge(limit),
    )


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
