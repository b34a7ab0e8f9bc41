"""What one benchmark has found, and what it was found with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.report import shown


@dataclass(frozen=True, slots=True)
class Outcome:
    """Attributes:
    began_at: ISO 8601, UTC.
    commit: of this project.
    versions: of packages, for `ours` and for `stock`.
    command: with paths that hold on other machines.
    document: the last line that the benchmark prints; see `Report.as_document`.
    """

    began_at: str
    duration_s: float
    commit: str
    versions: Mapping[str, Mapping[str, str]]
    command: str
    document: Mapping[str, Any]

    @property
    def headers(self) -> list[str]:
        """Of `cells`."""
        return ["", "ours", "stock", "ratio"] + (["95 % interval"] if self._has_intervals else [])

    @property
    def cells(self) -> list[list[str]]:
        """A line for each measured quantity."""
        return [self._line(row) for row in self.document["rows"]]

    @property
    def conditions(self) -> str:
        machine = self.document["machine"]
        sides = (f"{side}: {_listed(found)}" for side, found in self.versions.items())
        return (
            f"{self.began_at}, {self.duration_s / 60:.0f} minutes, commit {self.commit}, "
            f"{machine['cores']} cores of {machine['cpu']}; {'; '.join(sides)}"
        )

    @property
    def warnings(self) -> Sequence[str]:
        """Why the numbers may not be what they seem, as far as the benchmark noticed."""
        found: Sequence[str] = self.document.get("warnings", ())
        return found

    @property
    def _has_intervals(self) -> bool:
        return any(row.get("low") is not None for row in self.document["rows"])

    def _line(self, row: Mapping[str, Any]) -> list[str]:
        ours, stock = (f"{shown(row[side])} {row['unit']}" for side in ("ours", "stock"))
        line = [row["name"], ours, stock, f"{row['ratio']:.2f}"]
        if self._has_intervals:
            low, high = row.get("low"), row.get("high")
            line.append("" if low is None else f"{low:.2f} – {high:.2f}")
        return line


AIM_HEADERS = ["", "measured", "wanted", ""]


def aim_cells(outcomes: Mapping[str, Outcome]) -> list[list[str]]:
    """A line for each aim of all benchmarks."""
    return [
        [
            f"{name}: {aim['text']}",
            f"{aim['measured']:.2f}",
            f"{'at least' if aim['at_least'] else 'at most'} {aim['bound']:g}",
            "met" if aim["is_met"] else "NOT MET",
        ]
        for name, outcome in outcomes.items()
        for aim in outcome.document["aims"]
    ]


def count_met(outcomes: Mapping[str, Outcome]) -> str:
    verdicts = [aim["is_met"] for o in outcomes.values() for aim in o.document["aims"]]
    return f"{sum(verdicts)} of {len(verdicts)} met"


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
