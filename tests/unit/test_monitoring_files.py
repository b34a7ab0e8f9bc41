"""Prometheus' own tool on the files of docker/prometheus, Grafana's own model on the dashboard."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from server.cache_metrics import CacheMetrics
from server.errors import Overloaded
from server.metrics import metrics_of
from server.metrics_reference import iterate_metrics, render_metrics_table
from tests.monitoring import DASHBOARD, RULES, dashboard_expressions, rules
from tests.unit.server.test_cache_metrics import make_report

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "docker" / "prometheus"
GRAFANA = ROOT / "docker" / "grafana"

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed: apt-get install prometheus"
)

# What a server without faults shows, by the minute; `a+bxn` is n further values, each b more.
_GOOD = {
    'up{job="qwen3vl-serve",instance="a"}': "1x90",
    'qwen3vl_requests_in_flight{instance="a"}': "2x90",
    'vllm:iteration_tokens_total_count{instance="a"}': "0+600x90",
    'qwen3vl_requests_total{instance="a",outcome="done",status="200"}': "0+100x90",
    'qwen3vl_requests_total{instance="a",outcome="error",status="500"}': "0+1x90",
    'qwen3vl_requests_total{instance="a",outcome="rejected",status="503"}': "0+1x90",
    'qwen3vl_requests_total{instance="a",outcome="rejected",status="400"}': "0+50x90",
    'qwen3vl_time_to_first_token_seconds_bucket{instance="a",le="1"}': "0+99x90",
    'qwen3vl_time_to_first_token_seconds_bucket{instance="a",le="20"}': "0+100x90",
    'qwen3vl_time_to_first_token_seconds_bucket{instance="a",le="+Inf"}': "0+100x90",
    'vllm:num_requests_waiting{instance="a"}': "3x90",
    'vllm:kv_cache_usage_perc{instance="a"}': "0.5x90",
    'qwen3vl_vision_cache_damaged_total{instance="a",tier="host"}': "2x90",
    'qwen3vl_vision_cache_write_errors_total{instance="a",tier="host"}': "2x90",
    'qwen3vl_vision_cache_bypassed{instance="a",tier="host"}': "0x90",
}
# What is different when something is wrong; None: the series is not there.
_FAULTS: Mapping[str, Mapping[str, str | None]] = {
    "ServerDown": {'up{job="qwen3vl-serve",instance="a"}': "1x10 0x80"},
    "NoServers": {'up{job="qwen3vl-serve",instance="a"}': None},
    "EngineStuck": {'vllm:iteration_tokens_total_count{instance="a"}': "0+600x10 6000x80"},
    "ErrorsFrequent": {
        'qwen3vl_requests_total{instance="a",outcome="error",status="500"}': "0+20x90"
    },
    "RequestsRefused": {
        'qwen3vl_requests_total{instance="a",outcome="rejected",status="503"}': "0+20x90"
    },
    "FirstTokenSlow": {
        'qwen3vl_time_to_first_token_seconds_bucket{instance="a",le="1"}': "0+50x90"
    },
    "RequestsQueue": {'vllm:num_requests_waiting{instance="a"}': "40x90"},
    "KvCacheFull": {'vllm:kv_cache_usage_perc{instance="a"}': "0.99x90"},
    "VisionCacheDamaged": {
        'qwen3vl_vision_cache_damaged_total{instance="a",tier="host"}': "2x50 3x40"
    },
    "VisionCacheNotWritten": {
        'qwen3vl_vision_cache_write_errors_total{instance="a",tier="host"}': "2+1x90"
    },
    "VisionCacheBypassed": {'qwen3vl_vision_cache_bypassed{instance="a",tier="host"}': "1x90"},
}


def promtool(*argv: str, given: bytes | None = None) -> str:
    ended = subprocess.run(["promtool", *argv], input=given, capture_output=True, timeout=120)
    said = (ended.stdout + ended.stderr).decode()
    assert ended.returncode == 0 or given is not None, said
    return said


@needs_promtool
def test_prometheus_takes_the_configuration(tmp_path: Path) -> None:
    config = (PROMETHEUS / "prometheus.yml").read_text()
    key = tmp_path / "metrics_key"
    key.touch()
    for inside, here in (
        ("/etc/prometheus/alerts.yml", RULES),
        ("/run/secrets/metrics_key", key),
    ):
        assert config.count(inside) == 1
        config = config.replace(inside, str(here))
    path = tmp_path / "prometheus.yml"
    path.write_text(config)
    assert "SUCCESS" in promtool("check", "config", "--lint-fatal", str(path))


@needs_promtool
def test_every_alert_fires_on_its_fault_and_on_nothing_else(tmp_path: Path) -> None:
    assert _FAULTS.keys() == {rule["alert"] for rule in rules()}
    cases = [_case("none", {}), *(_case(name, fault) for name, fault in _FAULTS.items())]
    path = tmp_path / "alerts.test.yml"
    path.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "tests": cases}))
    assert "SUCCESS" in promtool("test", "rules", str(path))


def _case(fault: str, changes: Mapping[str, str | None]) -> dict[str, Any]:
    """One test of promtool's: the server after 80 minutes, and which alerts are firing then."""
    series = {name: values for name, values in {**_GOOD, **changes}.items() if values}
    firing = 'count by (alertname) (ALERTS{alertstate="firing"})'
    sample = {"labels": f'{{alertname="{fault}"}}', "value": 1}
    return {
        "name": fault,
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {"expr": firing, "eval_time": "80m", "exp_samples": [] if fault == "none" else [sample]}
        ],
    }


@needs_promtool
def test_prometheus_has_no_complaint_about_our_metrics() -> None:
    registry = CollectorRegistry()
    metrics, cache = metrics_of(registry), CacheMetrics()
    cache.update(0, make_report())
    metrics.add(cache)
    metrics.observe_media_stage("decode", 1.0)
    metrics.count_rejection("/v1/chat/completions", Overloaded("m", "overloaded"))
    assert promtool("check", "metrics", given=metrics.render()) == ""


def test_the_dashboard_is_what_grafana_reads() -> None:
    """Grafana's own model of it drops what it does not know."""
    sdk = pytest.importorskip("grafana_foundation_sdk.models.dashboard")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins

    register_default_plugins()
    dashboard = json.loads(DASHBOARD.read_text())
    read = json.loads(JSONEncoder().encode(sdk.Dashboard.from_json(dashboard)))
    assert list(_missing(dashboard, read)) == []


def _missing(given: Any, read: Any, path: str = "") -> Iterator[str]:
    """Paths of values that are not in `read`."""
    if isinstance(given, dict) and isinstance(read, dict):
        for key, value in given.items():
            yield from _missing(value, read.get(key), f"{path}.{key}")
    elif isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        for index, pair in enumerate(zip(given, read, strict=True)):
            yield from _missing(*pair, f"{path}[{index}]")
    elif given != read:
        yield path


def test_panels_have_numbers_places_and_the_provisioned_data_source() -> None:
    sources = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())
    uid = sources["datasources"][0]["uid"]
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells)
        taken |= cells
        for target in panel.get("targets", ()):
            assert target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": uid}


def test_the_dashboard_chooses_servers_in_every_panel() -> None:
    expressions = dashboard_expressions()
    assert len(expressions) > 30
    for title, expression in expressions:
        assert '{instance=~"$instance"' in expression or ', instance=~"$instance"' in expression, (
            title
        )


def test_metrics_that_are_asked_for_are_in_the_reference() -> None:
    known = {spec.name for spec in iterate_metrics()}
    asked = [expression for _, expression in dashboard_expressions()]
    asked += [rule["expr"] for rule in rules()]
    found = {name for text in asked for name in re.findall(r"\bqwen3vl_\w+", text)}
    assert len(found) > 20
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in found} <= known


def test_the_reference_is_the_one_of_the_code_and_names_every_alert() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert page.endswith(render_metrics_table())
    assert [rule["alert"] for rule in rules() if f"`{rule['alert']}`" not in page] == []
