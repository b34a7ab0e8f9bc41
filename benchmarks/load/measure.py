"""The numbers of a summary as people read them: in the terminal, in the report, in comparisons."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.load.latency import METRICS, MetricName, StatName
from benchmarks.load.ratio import Ratio
from benchmarks.load.slo import Goodput
from benchmarks.load.summary import Summary

Unit = Literal["count", "per_s", "s", "share", "verdict"]
Better = Literal["higher", "lower"]
METRIC_NAMES: dict[MetricName, str] = {
    "ttft": "TTFT",
    "ttfa": "TTFA",
    "itl": "ITL",
    "tpot": "TPOT",
    "e2e": "E2E",
}
SHOWN_STATS: tuple[StatName, ...] = ("p50", "p90", "p99")
ABSENT = "–"
_SLO = "SLO "
_GROUPS = ("Requests", "Throughput", "Latency", "Cache hits", _SLO, "Client")
_BYTE_UNITS = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


@dataclass(frozen=True, slots=True)
class Measure:
    """One number of one server under one load.

    Attributes:
        group, name: where it stands and what it is called.
        key: the same in every document, and in `Ratio.metric`.
        value: in `unit`; None is endless, as failed requests are for an SLO.
        better: which direction speaks for the server, if one does.
    """

    group: str
    key: str
    name: str
    unit: Unit
    value: float | None
    better: Better | None = None


Row = tuple[Measure | None, ...]


def measures(summary: Summary) -> Sequence[Measure]:
    """In the order of reading. What there was nothing of (videos, an error) is left out."""
    return [
        *_requests(summary),
        *_throughputs(summary),
        *_latencies(summary),
        *_caches(summary),
        *(measure for goodput in summary.goodput for measure in _slo(goodput)),
        *_client(summary),
    ]


def side_by_side(columns: Sequence[Sequence[Measure]]) -> Sequence[Row]:
    """A row for each number that any column has; None in the others."""
    found = [{(m.group, m.key): m for m in column} for column in columns]
    keys = dict.fromkeys(key for column in found for key in column)
    ordered = sorted(keys, key=lambda key: _group_rank(key[0]))
    return [tuple(column.get(key) for column in found) for key in ordered]


def label_of(row: Row) -> Measure:
    """Any of them, for what they have in common."""
    return next(measure for measure in row if measure is not None)


def shown_ratios(ratios: Sequence[Ratio]) -> Mapping[str, str]:
    """By the key of what they compare."""
    return {ratio.metric: _shown_ratio(ratio) for ratio in ratios}


def _shown_ratio(ratio: Ratio) -> str:
    interval = "" if ratio.low is None else f" ({ratio.low:.2f} – {ratio.high:.2f})"
    return f"{ratio.ratio:.2f}{interval}"


def ratio_meaning(first: str, second: str) -> str:
    return f"ratio: above 1, {first} is better than {second}; in brackets the 95 % interval"


def shown(measure: Measure | None) -> str:
    if measure is None:
        return ABSENT
    value = measure.value
    if value is None:
        return "endless"
    if measure.unit == "verdict":
        return "held" if value else "missed"
    return {"count": shown_count, "per_s": shown_number, "s": shown_time, "share": shown_share}[
        measure.unit
    ](value)


def shown_count(value: float) -> str:
    return f"{value:,.0f}"


def shown_time(value: float) -> str:
    """Of seconds."""
    return f"{shown_number(value)} s" if abs(value) >= 1 else f"{shown_number(value * 1e3)} ms"


def shown_share(value: float) -> str:
    return f"{value * 100:.1f} %"


def shown_bytes(value: float) -> str:
    for name, size in _BYTE_UNITS:
        if value >= size:
            return f"{shown_number(value / size)} {name}"
    return f"{value:.0f} B"


def shown_number(value: float) -> str:
    """Three digits, and all those before the point."""
    digits = next((digits for digits, bound in ((0, 99.95), (1, 9.995)) if abs(value) >= bound), 2)
    return f"{value:,.{digits}f}"


def _group_rank(group: str) -> int:
    return _GROUPS.index(_SLO if group.startswith(_SLO) else group)


def _requests(summary: Summary) -> Iterator[Measure]:
    totals = summary.totals
    failed = totals.requests - totals.answered
    yield Measure("Requests", "requests", "requests", "count", totals.requests)
    yield Measure("Requests", "duration", "duration", "s", summary.duration_s)
    yield Measure("Requests", "errors", "errors", "count", failed, "lower")
    for kind, count in sorted(totals.errors.items()):
        yield Measure("Requests", f"errors_{kind}", f"errors: {kind}", "count", count, "lower")


def _throughputs(summary: Summary) -> Iterator[Measure]:
    group, totals, per_s = "Throughput", summary.totals, summary.throughput
    yield Measure(group, "requests_per_s", "requests/s", "per_s", per_s.requests, "higher")
    if totals.images:
        yield Measure(group, "images_per_s", "images/s", "per_s", per_s.images, "higher")
    if totals.videos:
        yield Measure(group, "videos_per_s", "videos/s", "per_s", per_s.videos, "higher")
    for key, name, rate in (
        ("prompt_tokens_per_s", "tokens in/s", per_s.prompt_tokens),
        ("completion_tokens_per_s", "tokens out/s", per_s.completion_tokens),
    ):
        yield Measure(group, key, name, "per_s", rate, "higher")
    reasoning = totals.reasoning_tokens
    yield Measure(group, "reasoning_tokens", "reasoning tokens", "count", reasoning)


def _latencies(summary: Summary) -> Iterator[Measure]:
    for metric in METRICS:
        distribution = summary.latencies.get(metric)
        if distribution is None:
            continue
        for stat in SHOWN_STATS:
            name, value = f"{METRIC_NAMES[metric]} {stat}", getattr(distribution, stat)
            yield Measure("Latency", f"{metric}_{stat}", name, "s", value, "lower")


def _caches(summary: Summary) -> Iterator[Measure]:
    for name, count in summary.caches.items():
        yield Measure("Cache hits", f"cache_{name}", name, "share", count.rate, "higher")


def _slo(goodput: Goodput) -> Iterator[Measure]:
    group = f"{_SLO}{goodput.slo}"
    yield Measure(group, "slo_is_held", "verdict", "verdict", float(goodput.is_held))
    for name, value in goodput.measured_s.items():
        yield Measure(group, f"slo_{name}", name, "s", value, "lower")
    yield Measure(group, "slo_share", "requests that keep it", "share", goodput.share, "higher")
    yield Measure(group, "goodput", "goodput, requests/s", "per_s", goodput.requests, "higher")


def _client(summary: Summary) -> Iterator[Measure]:
    client = summary.client
    yield Measure("Client", "client_cpu", "CPU of one core", "share", client.cpu_share)
    yield Measure("Client", "client_lag_p99", "event loop late p99", "s", client.lag_p99_s)
    send_delay = client.send_delay_p99_s
    yield Measure("Client", "client_send_delay_p99", "sent late p99", "s", send_delay)
