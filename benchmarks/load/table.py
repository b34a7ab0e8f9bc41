"""Results as text, for the terminal or a file."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TextIO

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from benchmarks.load.comparison import ComparedRow, Comparison
from benchmarks.load.measure import (
    ABSENT,
    Measure,
    label_of,
    measures,
    ratio_meaning,
    shown,
    shown_ratios,
    side_by_side,
)
from benchmarks.load.result import Result, Step

# Of a file or a pipe; a terminal has its own.
_WIDTH = 100
_Line = tuple[str, Sequence[str]]


def print_summary(result: Result, file: TextIO) -> None:
    """A table for each load, with a column for each server; then rates found and warnings."""
    console = _console(file)
    for index, step in enumerate(result.steps):
        console.print(_step_table(result, index, step))
    if any(step.ratios for step in result.steps):
        console.print(Text(ratio_meaning(*(target.name for target in result.targets)), style="dim"))
    for line in highest_lines(result):
        console.print(_plain(line))
    for warning in result.warnings:
        console.print(Text.assemble(("warning: ", "bold yellow"), _printable(warning)))


def print_comparison(comparison: Comparison, file: TextIO) -> None:
    """Caveats first, then a table for each load and server."""
    console = _console(file)
    console.print(_plain(f"a: run of {comparison.a}, b: run of {comparison.b}"))
    for caveat in comparison.caveats:
        console.print(Text.assemble(("caveat: ", "bold yellow"), _printable(caveat)))
    for step in comparison.steps:
        lines = [(row.group, _compared_cells(row)) for row in step.rows]
        title = f"{step.load}, {step.name}"
        console.print(_table(title, ["", "a", "b", "b is better by"], lines))
    if not comparison.steps:
        console.print(Text("The two runs have no load in common."))


def highest_lines(result: Result) -> Sequence[str]:
    """What a ramp found."""
    return [
        f"highest rate that keeps {found.slo}, {result.targets[found.target].name}: "
        + ("none" if found.request_rate is None else f"{found.request_rate:g} requests/s")
        for found in result.highest
    ]


def _console(file: TextIO) -> Console:
    console = Console(file=file, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _WIDTH
    return console


def _step_table(result: Result, index: int, step: Step) -> Table:
    rows = side_by_side([measures(summary) for summary in step.summaries])
    headers = ["", *(target.name for target in result.targets)]
    cells = [[label_of(row).name, *map(shown, row)] for row in rows]
    if step.ratios:
        headers.append("ratio")
        ratios = shown_ratios(step.ratios)
        keys = [label_of(row).key for row in rows]
        cells = [[*line, ratios.get(key, "")] for key, line in zip(keys, cells, strict=True)]
    lines = [(label_of(row).group, line) for row, line in zip(rows, cells, strict=True)]
    title = f"{index + 1}. {step.load.label}"
    return _table(title, headers, lines)


def _table(title: str, headers: Sequence[str], lines: Sequence[_Line]) -> Table:
    table = Table(
        title=_plain(title),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for index, header in enumerate(headers):
        is_name = index == 0
        table.add_column(
            _plain(header), justify="left" if is_name else "right", no_wrap=not is_name
        )
    for cells in _with_groups(lines):
        table.add_row(*cells)
    return table


def _with_groups(lines: Sequence[_Line]) -> Iterator[Sequence[RenderableType]]:
    for group, members in groupby(lines, key=lambda line: line[0]):
        yield [Text(_printable(group), style="bold")]
        for _, cells in members:
            yield [_plain(f"  {cells[0]}"), *map(_plain, cells[1:])]


def _compared_cells(row: ComparedRow) -> Sequence[str]:
    a, b = (
        ABSENT if value is None else shown(Measure(row.group, row.key, row.name, row.unit, value))
        for value in (row.a, row.b)
    )
    return [row.name, a, b, "" if row.ratio is None else f"{row.ratio:.2f}"]


def _plain(text: str) -> Text:
    return Text(_printable(text))


def _printable(text: str) -> str:
    """Without what a server could steer the terminal with."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)
