"""The metrics as a markdown table, for docs/metrics.md."""

from collections.abc import Iterator

from server.cache_metrics import CACHE_METRICS
from server.metric_specs import SERVER_METRICS, Labels, MetricSpec

_UNITS = {
    "_bytes_per_second": "bytes/s",
    "_seconds": "seconds",
    "_bytes": "bytes",
    "_tokens": "tokens",
}


def iterate_metrics() -> Iterator[MetricSpec]:
    """Every metric of ours; vLLM's stand beside them in `/metrics`."""
    yield from SERVER_METRICS
    yield from CACHE_METRICS


def render_metrics_table() -> str:
    rows = ["| Metric | Type | Unit | Labels | Meaning |", "|---|---|---|---|---|"]
    for spec in iterate_metrics():
        labels, unit = _describe_labels(spec.labels), _unit_of(spec)
        rows.append(f"| `{spec.name}` | {spec.kind} | {unit} | {labels} | {spec.help} |")
    return "\n".join(rows) + "\n"


def _unit_of(spec: MetricSpec) -> str:
    """Names end in it; others count things."""
    name = spec.name.removesuffix("_total")
    known = [unit for suffix, unit in _UNITS.items() if name.endswith(suffix)]
    return known[0] if known else "-"


def _describe_labels(labels: Labels) -> str:
    return "; ".join(f"`{name}`: {values}" for name, values in labels.items()) or "-"
