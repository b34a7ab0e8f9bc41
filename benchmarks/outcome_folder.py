"""The folder with what was measured last: JSON, a README and a report."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from benchmarks.outcome import Outcome
from benchmarks.outcome_readme import render_readme
from benchmarks.outcome_report import render_report

_ALL = "results.json"


def read_outcomes(folder: Path) -> dict[str, Outcome]:
    """By benchmark; none if there is no such folder yet."""
    path = folder / _ALL
    if not path.exists():
        return {}
    return {name: Outcome(**fields) for name, fields in json.loads(path.read_text()).items()}


def write_results(folder: Path, outcomes: Mapping[str, Outcome]) -> None:
    """NAME.json is what the benchmark printed; everything else is made of all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, outcome in outcomes.items():
        _write_json(folder / f"{name}.json", outcome.document)
    _write_json(folder / _ALL, {name: asdict(outcome) for name, outcome in outcomes.items()})
    (folder / "README.md").write_text(render_readme(outcomes))
    (folder / "report.html").write_text(render_report(outcomes))


def _write_json(path: Path, document: Mapping[str, object]) -> None:
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
