"""What docker/prometheus and docker/grafana ask Prometheus for."""

import json
from pathlib import Path
from typing import Any

import yaml

_DOCKER = Path(__file__).parents[1] / "docker"
CONFIG = _DOCKER / "prometheus" / "prometheus.yml"
RULES = _DOCKER / "prometheus" / "alerts.yml"
DASHBOARD = _DOCKER / "grafana" / "dashboards" / "qwen3vl-serve.json"


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard_expressions() -> list[tuple[str, str]]:
    """The title of a panel, and what it asks for."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [
        (panel["title"], target["expr"]) for panel in panels for target in panel.get("targets", ())
    ]
