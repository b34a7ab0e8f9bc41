"""The vision cache's own counts as Prometheus metrics, as of the engine's last report."""

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_PREFIX = "qwen3vl_vision_cache"
_TIER_COUNTERS = {
    "hits": "Visual items found in the tier.",
    "misses": "Visual items looked for in the tier and not found.",
    "evictions": "Entries that made room for others.",
    "damaged": "Entries that did not verify; each is a miss.",
    "write_errors": "Entries that could not be written.",
    "bytes_read": "Bytes read from the tier.",
    "bytes_written": "Bytes written to the tier.",
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


class CacheMetrics(Collector):
    """Shows the latest report (see `SchedulerCache.take_stats`)."""

    def __init__(self) -> None:
        self._report: Mapping[str, Any] = {}

    def update(self, report: Mapping[str, Any]) -> None:
        self._report = report

    def collect(self) -> Iterator[Metric]:
        if not self._report:
            return
        tiers = self._tiers()
        for name, text in _TIER_COUNTERS.items():
            counter = CounterMetricFamily(f"{_PREFIX}_{name}", text, labels=("tier",))
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
            yield CounterMetricFamily(f"{_PREFIX}_{name}", text, value=self._report[name])
        rate = self._report["encode_bytes_per_s"]
        if rate is not None:
            text = "How fast the vision tower made embeddings lately."
            yield GaugeMetricFamily(f"{_PREFIX}_encode_bytes_per_second", text, value=rate)

    def _tiers(self) -> dict[str, dict[str, Any]]:
        bypassed = self._report["bypassed"]
        tiers = {
            name: {**values, "bypassed": int(name in bypassed)}
            for name, values in self._report["tiers"].items()
        }
        return {"device": self._report["device"], **tiers}
