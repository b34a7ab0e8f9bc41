"""CPU microseconds of a chunk, from the engine's output to the bytes that are sent.

    python -m benchmarks.stream --stock-python STOCK/bin/python

Each side runs in a process of its own: its whole application, without a socket, on the same engine
without a model. In turn they stream the same answers. The floor is what encoding such an event and
sending it take, with nothing around it.
"""

import json
import random
import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.arguments import shared_parser
from benchmarks.report import Aim, machine
from benchmarks.side_process import SideProcess, side_process
from benchmarks.stream_work import VARIANTS, Work
from demo.checkpoint import CheckpointSpec
from demo.random_checkpoint import build_checkpoint

_NUM_STREAMS = (1, 8, 64)
_NUM_OUTPUTS = 512
_NUM_ROUNDS = 9  # and one before them
_MIN_RATIO = 2.0
_UNIT = "µs"
_MODULES = {
    "ours": "benchmarks.our_stream",
    "stock": "benchmarks.stock_stream",
    "floor": "benchmarks.floor_stream",
}


@dataclass(frozen=True, slots=True)
class StreamTimes:
    """Of one chunk, in microseconds: CPU time, and time on the clock."""

    cpu: float
    wall: float


@dataclass(frozen=True, slots=True)
class StreamRow:
    """The same streams on both sides; medians over the rounds."""

    work: Work
    ours: StreamTimes
    stock: StreamTimes
    floor: StreamTimes

    @property
    def name(self) -> str:
        return f"{self.work.variant}, {self.work.num_streams}"

    @property
    def ratio(self) -> float:
        """How many times less CPU time ours takes."""
        return self.stock.cpu / self.ours.cpu

    def as_document(self) -> dict[str, object]:
        """As a row of the other benchmarks, with more in it."""
        return {
            "name": self.name,
            "ours": self.ours.cpu,
            "stock": self.stock.cpu,
            "unit": _UNIT,
            "ratio": self.ratio,
            "floor": self.floor.cpu,
            "ours_wall": self.ours.wall,
            "stock_wall": self.stock.wall,
        }


def main() -> None:
    arguments = shared_parser(__doc__).parse_args()
    arguments.checkpoints.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=arguments.checkpoints) as folder, ExitStack() as stack:
        checkpoint = str(build_checkpoint(Path(folder) / "checkpoint", CheckpointSpec()))
        sides = {}
        for name, module in _MODULES.items():
            python = arguments.stock_python if name == "stock" else Path(sys.executable)
            sides[name] = stack.enter_context(side_process(python, module, checkpoint))
        rows = measure(sides, _NUM_ROUNDS)
    print_report(rows)


def measure(sides: Mapping[str, SideProcess], num_rounds: int) -> list[StreamRow]:
    """All works in each round, and for each of them one side right after the other."""
    works = [Work(variant, n, _NUM_OUTPUTS) for variant in VARIANTS for n in _NUM_STREAMS]
    times: dict[Work, dict[str, list[StreamTimes]]]
    times = {work: {name: [] for name in sides} for work in works}
    order = random.Random(0)
    for index in range(1 + num_rounds):
        for work in works:
            for name in order.sample(sorted(sides), len(sides)):
                measured = stream(sides[name], _floor_of(work) if name == "floor" else work)
                if index > 0:
                    times[work][name].append(measured)
    return [
        StreamRow(work, **{name: _median(values) for name, values in measured.items()})
        for work, measured in times.items()
    ]


def _floor_of(work: Work) -> Work:
    """Events of reasoning and calls are of the same size as those of content."""
    is_split = work.variant in ("thinking", "tools")
    return replace(work, variant="content") if is_split else work


def stream(side: SideProcess, work: Work) -> StreamTimes:
    run = side.ask(asdict(work))
    return StreamTimes(*(run[name] / work.num_chunks * 1e6 for name in ("cpu_s", "wall_s")))


def _median(times: Sequence[StreamTimes]) -> StreamTimes:
    return StreamTimes(
        statistics.median(each.cpu for each in times),
        statistics.median(each.wall for each in times),
    )


def print_report(rows: Sequence[StreamRow]) -> None:
    """As `benchmarks.report` does it; an aim is about all numbers of streams."""
    print(_table(rows))
    least = {
        variant: min(row.ratio for row in rows if row.work.variant == variant)
        for variant in dict.fromkeys(row.work.variant for row in rows)
    }
    aims = [Aim(f"{name}: times less than stock", r, _MIN_RATIO) for name, r in least.items()]
    for aim in aims:
        verdict = "met" if aim.is_met else "NOT MET"
        print(f"{verdict}: {aim.text}: {aim.measured:.2f} (wanted >= {aim.bound:g})")
    document = {
        "benchmark": "stream",
        "machine": machine(),
        "rows": [row.as_document() for row in rows],
        "aims": [asdict(aim) | {"is_met": aim.is_met} for aim in aims],
    }
    print(json.dumps(document))


def _table(rows: Sequence[StreamRow]) -> str:
    columns = ("ours", "stock", "ratio", "of wall time", "floor", "ours, chunks/s", "stock")
    lines = [f"| | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for row in rows:
        ours, stock, floor = (f"{times.cpu:.1f}" for times in (row.ours, row.stock, row.floor))
        wall_ratio = row.stock.wall / row.ours.wall
        cells = [row.name, f"{ours} {_UNIT}", f"{stock} {_UNIT}"]
        cells += [f"{row.ratio:.2f}", f"{wall_ratio:.2f}", f"{floor} {_UNIT}"]
        cells += [f"{1e6 / times.cpu:,.0f}" for times in (row.ours, row.stock)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
