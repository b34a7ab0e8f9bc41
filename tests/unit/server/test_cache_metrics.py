from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from server.cache_metrics import CacheMetrics

TIER_COUNTS = {
    "hits": 1,
    "misses": 2,
    "damaged": 3,
    "write_errors": 4,
    "evictions": 5,
    "bytes_read": 6,
    "bytes_written": 7,
}


def make_report(**changes: Any) -> dict[str, Any]:
    """As `SchedulerCache.take_stats` makes it."""
    host = {**TIER_COUNTS, "num_bytes": 80, "load_bytes_per_s": 90.5}
    disk = {**TIER_COUNTS, "hits": 11, "num_bytes": 180, "load_bytes_per_s": None}
    report = {
        "needed": [],
        "retries": 21,
        "encoded": 22,
        "device": {"hits": 31, "evictions": 32, "num_bytes": 33, "max_bytes": 34},
        "tiers": {"host": host, "disk": disk},
        "dropped": 23,
        "bypassed": ["disk"],
        "encode_bytes_per_s": 24.5,
    }
    return report | changes


@pytest.fixture
def metrics() -> CacheMetrics:
    return CacheMetrics()


@pytest.fixture
def read(metrics):
    """The value of a metric, by its name without the prefix, and tier."""
    registry = CollectorRegistry()
    registry.register(metrics)

    def read(name: str, tier: str | None = None) -> float | None:
        labels = {} if tier is None else {"tier": tier}
        return registry.get_sample_value(f"qwen3vl_vision_cache_{name}", labels)

    read.registry = registry
    return read


def test_nothing_is_shown_before_the_first_report(read):
    assert generate_latest(read.registry) == b""


@pytest.mark.parametrize(("name", "value"), TIER_COUNTS.items())
def test_every_count_of_a_tier_is_shown(metrics, read, name, value):
    metrics.update(0, make_report())
    shown = {"bytes_read": "read_bytes", "bytes_written": "written_bytes"}.get(name, name)
    assert read(f"{shown}_total", "host") == value


def test_tiers_are_told_apart(metrics, read):
    metrics.update(0, make_report())
    assert [read("hits_total", tier) for tier in ("device", "host", "disk")] == [31, 1, 11]


def test_the_device_has_what_it_counts_only(metrics, read):
    metrics.update(0, make_report())
    assert read("evictions_total", "device") == 32
    for name in ("misses_total", "read_bytes_total", "bypassed", "load_bytes_per_second"):
        assert read(name, "device") is None


def test_sizes_are_gauges(metrics, read):
    metrics.update(0, make_report())
    assert [read("bytes", tier) for tier in ("device", "host", "disk")] == [33, 80, 180]
    assert read("max_bytes", "device") == 34


def test_a_rate_is_absent_until_it_is_known(metrics, read):
    metrics.update(0, make_report())
    assert read("load_bytes_per_second", "host") == 90.5
    assert read("load_bytes_per_second", "disk") is None


def test_a_bypassed_tier_is_marked(metrics, read):
    metrics.update(0, make_report())
    assert [read("bypassed", tier) for tier in ("host", "disk")] == [0, 1]


@pytest.mark.parametrize(("name", "value"), [("retries", 21), ("encoded", 22), ("dropped", 23)])
def test_what_belongs_to_no_tier_has_no_label(metrics, read, name, value):
    metrics.update(0, make_report())
    assert read(f"{name}_total") == value


def test_the_rate_of_the_vision_tower_is_absent_until_it_is_known(metrics, read):
    metrics.update(0, make_report(encode_bytes_per_s=None))
    assert "encode_bytes_per_second" not in generate_latest(read.registry).decode()
    metrics.update(0, make_report())
    assert read("encode_bytes_per_second") == 24.5


def test_a_server_without_tiers_shows_the_device(metrics, read):
    metrics.update(0, make_report(tiers={}, bypassed=[]))
    assert read("hits_total", "device") == 31
    assert read("hits_total", "host") is None


def test_the_latest_report_is_shown(metrics, read):
    metrics.update(0, make_report())
    metrics.update(0, make_report(retries=99))
    assert read("retries_total") == 99


def test_names_and_types_are_those_of_prometheus(metrics, read):
    metrics.update(0, make_report())
    text = generate_latest(read.registry).decode()
    assert "# TYPE qwen3vl_vision_cache_hits_total counter" in text
    assert "# TYPE qwen3vl_vision_cache_bytes gauge" in text
    assert 'qwen3vl_vision_cache_hits_total{tier="device"} 31.0' in text


def test_engines_are_added_up(metrics, read):
    metrics.update(0, make_report())
    metrics.update(1, make_report(retries=100, encode_bytes_per_s=34.5))
    assert read("retries_total") == 121
    assert read("hits_total", "host") == 2
    assert read("hits_total", "device") == 62
    assert read("max_bytes", "device") == 68
    assert read("encode_bytes_per_second") == 29.5


def test_engines_share_their_tiers(metrics, read):
    metrics.update(0, make_report())
    metrics.update(1, make_report())
    assert [read("bytes", tier) for tier in ("host", "disk")] == [80, 180]


def test_a_rate_that_one_engine_knows_is_shown(metrics, read):
    metrics.update(0, make_report())
    metrics.update(1, make_report(encode_bytes_per_s=None))
    assert read("encode_bytes_per_second") == 24.5


def test_a_tier_is_bypassed_if_one_engine_passes_it_by(metrics, read):
    metrics.update(0, make_report(bypassed=[]))
    assert metrics.bypassed() == set()
    metrics.update(1, make_report(bypassed=["disk"]))
    assert metrics.bypassed() == {"disk"}
    assert [read("bypassed", tier) for tier in ("host", "disk")] == [0, 1]
