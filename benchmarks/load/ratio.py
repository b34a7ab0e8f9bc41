"""How many times better one server is than another, and how sure that is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.load.latency import MetricName, StatName, latencies
from benchmarks.load.summary import Block, summarize

MIN_BLOCKS = 5  # fewer say little of the noise between them
_NUM_RESAMPLES = 2000
_PERCENTILES = (2.5, 97.5)
_LATENCIES: tuple[tuple[MetricName, StatName], ...] = (
    ("ttft", "p50"),
    ("ttft", "p99"),
    ("tpot", "p50"),
    ("e2e", "p50"),
    ("e2e", "p99"),
)
_THROUGHPUTS = ("requests", "images", "completion_tokens")

Positions = np.ndarray[Any, np.dtype[np.int64]]
# Of the blocks at these positions, of which one may be there several times.
Quantity = Callable[[Positions], float]


@dataclass(frozen=True, slots=True)
class Ratio:
    """The first server by the one it is compared with: above 1 the first is better.

    Attributes:
        metric: a latency (`ttft_p50`) or a throughput (`requests_per_s`).
        low, high: 95 % confidence interval, from a bootstrap over the pairs of blocks; None if
            there are too few of them.
    """

    metric: str
    ratio: float
    low: float | None
    high: float | None


def compare(first: Sequence[Block], second: Sequence[Block], seed: int) -> Sequence[Ratio]:
    """Of blocks that belong together by their place. What one of the two never had is left out.

    Raises: ValueError if there are not as many of the one as of the other.
    """
    if len(first) != len(second):
        raise ValueError("blocks without a partner")
    all_blocks = np.arange(len(first))
    picks = np.random.default_rng(seed).integers(len(first), size=(_NUM_RESAMPLES, len(first)))
    ratios = []
    for name, better, worse in _quantities(first, second):
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.divide(better(all_blocks), worse(all_blocks))
            resampled = np.array([np.divide(better(pick), worse(pick)) for pick in picks])
        if not np.isfinite(ratio) or ratio <= 0:
            continue
        low, high = None, None
        if len(first) >= MIN_BLOCKS:
            low, high = map(float, np.percentile(resampled[np.isfinite(resampled)], _PERCENTILES))
        ratios.append(Ratio(name, float(ratio), low, high))
    return ratios


def _quantities(
    first: Sequence[Block], second: Sequence[Block]
) -> Sequence[tuple[str, Quantity, Quantity]]:
    """Names with what is divided by what, so that more than 1 speaks for the first."""
    throughputs = [
        (f"{name}_per_s", _throughput(first, name), _throughput(second, name))
        for name in _THROUGHPUTS
    ]
    times = [
        (f"{metric}_{stat}", _latency(second, metric, stat), _latency(first, metric, stat))
        for metric, stat in _LATENCIES
    ]
    return throughputs + times


def _throughput(blocks: Sequence[Block], name: str) -> Quantity:
    totals = [summarize([block], ()).totals for block in blocks]
    field = "answered" if name == "requests" else name
    amounts = np.array([float(getattr(total, field)) for total in totals])
    durations_s = np.array([block.duration_s for block in blocks])
    return lambda picked: float(amounts[picked].sum() / durations_s[picked].sum())


def _latency(blocks: Sequence[Block], metric: MetricName, stat: StatName) -> Quantity:
    percent = float(stat.removeprefix("p"))
    values = [
        np.array([v for record in block.records if record.is_ok for v in latencies(record, metric)])
        for block in blocks
    ]

    def quantity(picked: Positions) -> float:
        pooled = np.concatenate([values[index] for index in picked])
        return float(np.percentile(pooled, percent)) if pooled.size else np.nan

    return quantity
