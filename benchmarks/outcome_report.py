"""The results as one HTML file: caveats, aims, and a drawing and a table of each benchmark."""

import textwrap
from collections.abc import Iterator, Mapping

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.html_page import (
    ALARM,
    COLORS,
    FIGURE_WIDTH,
    INK,
    code_block,
    figure,
    figure_style,
    page,
    paragraph,
    table,
    warning,
)
from benchmarks.outcome import AIM_HEADERS, Outcome, aim_cells, count_met
from benchmarks.outcome_readme import CAVEATS, COMMANDS, TITLE

_LABEL_WIDTH = 26  # characters
_LINE_HEIGHT, _MARGIN = 0.18, 0.75  # inches
_ROW_GAP = 0.1
_TICKS = (1.0, 2.0, 5.0)


def render_report(outcomes: Mapping[str, Outcome]) -> str:
    parts = [
        warning("Caveats", CAVEATS),
        paragraph("All of it again, or some of it:"),
        code_block("\n".join(COMMANDS)),
        f"<h2>Aims: {count_met(outcomes)}</h2>",
        table(AIM_HEADERS, aim_cells(outcomes)),
        *(part for name, outcome in outcomes.items() for part in _section(name, outcome)),
    ]
    return page(TITLE, "\n".join(parts))


def _section(name: str, outcome: Outcome) -> Iterator[str]:
    yield f"<h2>{name}</h2>"
    yield paragraph(outcome.conditions)
    yield warning("Warnings", outcome.warnings)
    caption = f"{name}: how many times better ours is than stock; the line is a draw"
    yield figure(draw_ratios(outcome), caption)
    yield table(outcome.headers, outcome.cells)
    yield code_block(outcome.command)


def draw_ratios(outcome: Outcome) -> Figure:
    """A dot for each row, with its interval if it has one; those below 1 in another colour."""
    rows = outcome.document["rows"]
    labels = [textwrap.fill(row["name"], _LABEL_WIDTH) for row in rows]
    num_lines = sum(label.count("\n") + 1 for label in labels)
    height = _MARGIN + num_lines * _LINE_HEIGHT + len(rows) * _ROW_GAP
    with figure_style():
        drawing = Figure(figsize=(FIGURE_WIDTH, height))
        axes = drawing.subplots()
        axes.axvline(1, color=INK, linewidth=1)
        for place, row in enumerate(rows):
            color = COLORS[0] if row["ratio"] >= 1 else ALARM
            if row.get("low") is not None:
                axes.plot([row["low"], row["high"]], [place, place], color=color)
            axes.plot(row["ratio"], place, "o", color=color)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=_TICKS))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_yticks(range(len(rows)), labels)
        axes.invert_yaxis()
        axes.set_xlabel("ratio")
    return drawing
