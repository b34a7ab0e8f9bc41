"""The vision cache's own counts as Prometheus metrics, as of the engines' last reports."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from statistics import fmean
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.metric_specs import MetricSpec

_PREFIX = "qwen3vl_vision_cache"
_TIER_COUNTERS = {
    "hits": ("hits", "Visual items found in the tier."),
    "misses": ("misses", "Visual items looked for in the tier and not found."),
    "evictions": ("evictions", "Entries that made room for others."),
    "damaged": ("damaged", "Entries that did not verify; each is a miss."),
    "write_errors": ("write_errors", "Entries that could not be written."),
    "bytes_read": ("read_bytes", "Bytes read from the tier."),
    "bytes_written": ("written_bytes", "Bytes written to the tier."),
}
_TIER_GAUGES = {
    "num_bytes": ("bytes", "Bytes in the tier."),
    "max_bytes": ("max_bytes", "Budget of the tier."),
    "load_bytes_per_s": ("load_bytes_per_second", "How fast the tier was read lately."),
    "bypassed": ("bypassed", "1 if reading the tier takes longer than encoding again."),
}
_COUNTERS = {
    "encoded": "Visual items that the vision tower has encoded.",
    "retries": "Visual items whose patches the engine had to ask the server for.",
    "dropped": "Embeddings not written because too many waited.",
}
_ENCODE_RATE = f"{_PREFIX}_encode_bytes_per_second"
_ENCODE_RATE_TEXT = "How fast the vision tower made embeddings lately."
_TIER_LABEL = {"tier": "`device`, `host`, `disk`"}
_SHARED = ("num_bytes", "max_bytes")  # the engines use the same folders

CACHE_METRICS = (
    *(
        MetricSpec(f"{_PREFIX}_{metric}_total", "counter", text, _TIER_LABEL)
        for metric, text in _TIER_COUNTERS.values()
    ),
    *(
        MetricSpec(f"{_PREFIX}_{metric}", "gauge", text, _TIER_LABEL)
        for metric, text in _TIER_GAUGES.values()
    ),
    *(MetricSpec(f"{_PREFIX}_{name}_total", "counter", text) for name, text in _COUNTERS.items()),
    MetricSpec(_ENCODE_RATE, "gauge", _ENCODE_RATE_TEXT),
)


class CacheMetrics(Collector):
    """Shows the latest report of each engine (see `SchedulerCache.take_stats`), added up."""

    def __init__(self) -> None:
        self._reports: dict[int, Mapping[str, Any]] = {}

    def update(self, engine_index: int, report: Mapping[str, Any]) -> None:
        self._reports[engine_index] = report

    def bypassed(self) -> set[str]:
        """Names of tiers that some engine does not read."""
        return {name for report in self._reports.values() for name in report["bypassed"]}

    def collect(self) -> Iterator[Metric]:
        if not self._reports:
            return
        reports = list(self._reports.values())
        tiers = self._tiers(reports)
        for name, (metric, text) in _TIER_COUNTERS.items():
            counter = CounterMetricFamily(f"{_PREFIX}_{metric}", text, labels=("tier",))
            for tier, values in tiers.items():
                if name in values:
                    counter.add_metric((tier,), values[name])
            yield counter
        for name, (metric, text) in _TIER_GAUGES.items():
            gauge = GaugeMetricFamily(f"{_PREFIX}_{metric}", text, labels=("tier",))
            for tier, values in tiers.items():
                if values.get(name) is not None:
                    gauge.add_metric((tier,), values[name])
            yield gauge
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(
                f"{_PREFIX}_{name}", text, value=sum(report[name] for report in reports)
            )
        rate = _mean(report["encode_bytes_per_s"] for report in reports)
        if rate is not None:
            yield GaugeMetricFamily(_ENCODE_RATE, _ENCODE_RATE_TEXT, value=rate)

    def _tiers(self, reports: Collection[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        bypassed = self.bypassed()
        devices = [report["device"] for report in reports]
        tiers: dict[str, dict[str, Any]] = {
            "device": {name: sum(device[name] for device in devices) for name in devices[0]}
        }
        for tier in next(iter(reports))["tiers"]:
            every = [report["tiers"][tier] for report in reports]
            tiers[tier] = {name: _merge(name, [one[name] for one in every]) for name in every[0]}
            tiers[tier]["bypassed"] = int(tier in bypassed)
        return tiers


def _merge(name: str, values: Collection[Any]) -> Any:
    """One value of a tier, of all engines."""
    if name == "load_bytes_per_s":
        return _mean(values)
    return max(values) if name in _SHARED else sum(values)


def _mean(rates: Iterable[float | None]) -> float | None:
    known = [rate for rate in rates if rate is not None]
    return fmean(known) if known else None
