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
    """The JSON has what the benchmarks printed; everything else is made of it."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {name: asdict(outcome) for name, outcome in outcomes.items()}
    text = json.dumps(document, indent=1, ensure_ascii=False)
    (folder / _ALL).write_text(f"{text}\n")
    (folder / "README.md").write_text(render_readme(outcomes))
    (folder / "report.html").write_text(render_report(outcomes))
