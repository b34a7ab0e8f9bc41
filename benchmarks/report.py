"""What a benchmark prints: a table to read, and one JSON document as the last line."""

import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Unit = Literal["ms", "s", "requests/s"]
_MORE_IS_BETTER: tuple[Unit, ...] = ("requests/s",)


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement of both servers, taken one right after the other."""

    ours: float
    stock: float


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity of both servers, in `unit`."""

    name: str
    ours: float
    stock: float
    unit: Unit

    @property
    def ratio(self) -> float:
        """How many times better ours is."""
        if self.unit in _MORE_IS_BETTER:
            return self.ours / self.stock
        return self.stock / self.ours


@dataclass(frozen=True, slots=True)
class Aim:
    """What was wanted of a measured number: `at_least` or, else, at most `bound`."""

    text: str
    measured: float
    bound: float
    at_least: bool = True

    @property
    def is_met(self) -> bool:
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound


@dataclass(frozen=True, slots=True)
class Report:
    """The result of one benchmark. Aims are about numbers in the rows or made from them."""

    benchmark: str
    rows: Sequence[Row]
    aims: Sequence[Aim]

    def print(self) -> None:
        """The table and the aims, then everything as the last line of stdout."""
        print(_table(self.rows))
        for aim in self.aims:
            sign = ">=" if aim.at_least else "<="
            verdict = "met" if aim.is_met else "NOT MET"
            print(f"{verdict}: {aim.text}: {aim.measured:.2f} (wanted {sign} {aim.bound:g})")
        print(json.dumps(self.as_document()))

    def as_document(self) -> dict[str, object]:
        return {
            "benchmark": self.benchmark,
            "machine": machine(),
            "rows": [asdict(row) | {"ratio": row.ratio} for row in self.rows],
            "aims": [asdict(aim) | {"is_met": aim.is_met} for aim in self.aims],
        }


def median_row(name: str, samples: Sequence[Sample], unit: Unit) -> Row:
    """The median of each side."""
    ours = statistics.median(sample.ours for sample in samples)
    stock = statistics.median(sample.stock for sample in samples)
    return Row(name, ours, stock, unit)


def machine() -> dict[str, object]:
    """The cores that this process may use, and what they are."""
    return {"cores": len(os.sched_getaffinity(0)), "cpu": cpu_name(_CPU_FILE.read_text())}


_CPU_FILE = Path("/proc/cpuinfo")


def cpu_name(cpuinfo: str) -> str:
    """`model name` of the first core; `unknown` where there is none, as on ARM."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return "unknown"


def _table(rows: Sequence[Row]) -> str:
    """Markdown, so that it can be pasted into README.md."""
    lines = ["| | ours | stock | ratio |", "|---|---|---|---|"]
    for row in rows:
        ours, stock = (f"{value:.3g} {row.unit}" for value in (row.ours, row.stock))
        lines.append(f"| {row.name} | {ours} | {stock} | {row.ratio:.2f} |")
    return "\n".join(lines)
