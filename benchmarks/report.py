"""What a benchmark prints: a table to read, and one JSON document as the last line."""

import json
import os
import platform
import shutil
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import psutil

Unit = Literal["ms", "s", "requests/s", "tokens/s", "GiB"]
_MORE_IS_BETTER: tuple[Unit, ...] = ("requests/s", "tokens/s")


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement of both servers, taken one right after the other."""

    ours: float
    stock: float


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity of both servers, in `unit`.

    Attributes:
        low, high: 95 % confidence interval of the ratio; None of what has none.
    """

    name: str
    ours: float
    stock: float
    unit: Unit
    low: float | None = None
    high: float | None = None

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
    """The result of one benchmark. Aims are about numbers in the rows or made from them.

    Attributes:
        warnings: why the numbers may not be what they seem.
    """

    benchmark: str
    rows: Sequence[Row]
    aims: Sequence[Aim]
    warnings: Sequence[str] = ()

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
            "warnings": list(self.warnings),
        }


def median_row(name: str, samples: Sequence[Sample], unit: Unit) -> Row:
    """The median of each side."""
    ours = statistics.median(sample.ours for sample in samples)
    stock = statistics.median(sample.stock for sample in samples)
    return Row(name, ours, stock, unit)


def machine() -> dict[str, object]:
    """The cores that this process may use and what they are, GPUs, memory, system."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": cpu_name(_CPU_FILE.read_text()),
        "gpus": _gpu_names(),
        "memory_gib": round(psutil.virtual_memory().total / 1024**3),
        "system": f"{platform.system()} {platform.release()}",
    }


def _gpu_names() -> list[str]:
    """As NVIDIA's driver names them, if it is there."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True).stdout.splitlines()


_CPU_FILE = Path("/proc/cpuinfo")


def cpu_name(cpuinfo: str) -> str:
    """`model name` of the first core; `unknown` where there is none, as on ARM."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return "unknown"


def shown(value: float) -> str:
    """Three digits, and all those before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _table(rows: Sequence[Row]) -> str:
    """Markdown, so that it can be pasted."""
    lines = ["| | ours | stock | ratio | 95 % interval |", "|---|---|---|---|---|"]
    for row in rows:
        ours, stock = (f"{shown(value)} {row.unit}" for value in (row.ours, row.stock))
        interval = "" if row.low is None else f"{row.low:.2f} – {row.high:.2f}"
        lines.append(f"| {row.name} | {ours} | {stock} | {row.ratio:.2f} | {interval} |")
    return "\n".join(lines)
