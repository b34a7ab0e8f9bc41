"""Drawings of a run: how latencies are distributed, when what happened, what load costs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    MaxNLocator,
    NullLocator,
    PercentFormatter,
)

from benchmarks.html_page import ALARM, COLORS, FIGURE_WIDTH, INK, figure_style
from benchmarks.load.latency import MetricName, StatName, latencies
from benchmarks.load.measure import METRIC_NAMES, shown_share, shown_time
from benchmarks.load.record import RequestRecord
from benchmarks.load.result import Result
from benchmarks.load.scrape import sum_counts

_Item = TypeVar("_Item")
# A drawing has so many points of a line, and so many of those that stand for a request each.
_MAX_LINE_POINTS = 400
_MAX_REQUEST_POINTS = 600
_MAX_CDF_STEPS = 4
_MAX_TICKS = 6
_MAX_LINEAR_STEPS = 5
# Of an axis of times, from end to end, so that what hardly varies looks like it.
_LEAST_SPAN = 1.6
# By the longest time. Chunks that come at once must not squeeze the rest of a distribution; among
# requests, one that fails at once must not be left out.
_LEAST_X = 1e-3
_LEAST_Y = 1e-6
_CDF_METRICS: tuple[MetricName, ...] = ("ttft", "tpot", "itl", "e2e")
_CURVE_METRICS: tuple[MetricName, ...] = ("ttft", "e2e")
_CURVE_STATS: tuple[tuple[StatName, str], ...] = (("p50", "-"), ("p99", "--"))
_LINE_STYLES = ("-", "--", "-.", ":")
_WHOLE_NAMES: Mapping[MetricName, str] = {
    "ttft": "Time to first token",
    "tpot": "Time per output token",
    "itl": "Inter-token latency",
    "e2e": "End-to-end latency",
}


@dataclass(frozen=True, slots=True)
class Plot:
    figure: Figure
    caption: str


def draw_plots(result: Result, records: Sequence[RequestRecord]) -> Sequence[Plot]:
    """Those that there is something to draw of."""
    with figure_style():
        plots = [_latency_cdf(result, records, metric) for metric in _CDF_METRICS]
        plots += [_timeline(result, records), _load_curves(result), _cache_hits(result)]
    return [plot for plot in plots if plot is not None]


def _latency_cdf(
    result: Result, records: Sequence[RequestRecord], metric: MetricName
) -> Plot | None:
    steps = _picked(range(len(result.steps)), _MAX_CDF_STEPS)
    axes = _new_axes(2.7)
    for place, (step, target) in enumerate(
        (step, target) for step in steps for target in range(len(result.targets))
    ):
        values = [
            value
            for record in records
            if record.is_ok and (record.step, record.target) == (step, target)
            for value in latencies(record, metric)
        ]
        if values:
            color, line_style = _line_look(result, place, steps.index(step), target)
            shares = np.linspace(0, 1, min(len(values), _MAX_LINE_POINTS))
            label = _series_name(result, step, target)
            quantiles = np.quantile(values, shares)
            axes.plot(quantiles, shares, color=color, linestyle=line_style, label=label)
    if not axes.lines:
        return None
    _time_axis(axes.xaxis)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.set_ylabel("share at most that long")
    text = f"{_WHOLE_NAMES[metric]} ({METRIC_NAMES[metric]}) of answered requests"
    if len(steps) < len(result.steps):
        text += f"; {len(steps)} of {len(result.steps)} loads"
    return Plot(_finished(axes, columns=2), f"{text}. Further left is better.")


def _timeline(result: Result, records: Sequence[RequestRecord]) -> Plot | None:
    if not records:
        return None
    figure = Figure(figsize=(FIGURE_WIDTH, 5.4))
    panels = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 2))
    for index, target in enumerate(result.targets):
        own = [record for record in records if record.target == index]
        color = COLORS[index % len(COLORS)]
        _scatter(panels[0], own, "ttft", color, target.name)
        _scatter(panels[1], own, "e2e", color, "")
        if own:
            panels[2].step(*_in_flight(own), where="post", color=color, linewidth=1)
    failed = _picked([r for r in records if not r.is_ok], _MAX_REQUEST_POINTS)
    if failed:
        panels[1].plot(
            [record.scheduled_s for record in failed],
            [record.e2e_s for record in failed],
            linestyle="",
            marker="x",
            markersize=4,
            color=ALARM,
            label="failed",
        )
    for axes, label in zip(panels, ("TTFT", "E2E", "in flight"), strict=True):
        axes.set_ylabel(label)
    for axes in panels[:2]:
        _time_axis(axes.yaxis)
    panels[2].set_ylim(bottom=0)
    panels[2].set_xlabel("since the start, seconds")
    _mark_steps(panels, records, len(result.steps))
    caption = "Requests, by when they were due, and the most that were unanswered at a time."
    if len(result.steps) > 1:
        caption += " Dotted lines: the next load begins."
    return Plot(_finished(panels[0], columns=3), caption)


def _load_curves(result: Result) -> Plot | None:
    if len(result.steps) < 2:
        return None
    figure = Figure(figsize=(FIGURE_WIDTH, 4.6))
    panels = figure.subplots(2, 1, sharex=True)
    for axes, metric in zip(panels, _CURVE_METRICS, strict=True):
        for stat, line_style in _CURVE_STATS:
            for index in range(len(result.targets)):
                _load_curve(axes, result, index, metric, stat, line_style)
        if not axes.lines:
            return None
        _time_axis(axes.yaxis)
        axes.set_ylabel(METRIC_NAMES[metric])
    panels[1].set_xlabel("answered requests per second")
    caption = (
        "Latency against throughput; points are loads, numbered above p99. "
        "Further right and lower is better."
    )
    return Plot(_finished(panels[0], columns=2), caption)


def _load_curve(
    axes: Axes, result: Result, target: int, metric: MetricName, stat: StatName, line_style: str
) -> None:
    points = [
        (index + 1, step.summaries[target].throughput.requests, getattr(found, stat))
        for index, step in enumerate(result.steps)
        if (found := step.summaries[target].latencies.get(metric)) is not None
    ]
    if not points:
        return
    numbers, rates, values = zip(*points, strict=True)
    color = COLORS[target % len(COLORS)]
    label = f"{result.targets[target].name}, {stat}"
    axes.plot(rates, values, line_style, color=color, marker="o", markersize=3, label=label)
    # The median of the same load is right below.
    labelled = zip(numbers, rates, values, strict=True) if stat == "p99" else ()
    for number, rate, value in labelled:
        axes.annotate(
            str(number), (rate, value), (0, 4), textcoords="offset points", ha="center", color=INK
        )


def _cache_hits(result: Result) -> Plot | None:
    counts = [
        sum_counts(step.summaries[index].caches for step in result.steps)
        for index in range(len(result.targets))
    ]
    names = list(dict.fromkeys(name for found in counts for name in found))
    if not names:
        return None
    axes = _new_axes(0.9 + 0.3 * len(names) * len(counts))
    height = 0.8 / len(counts)
    for index, (target, found) in enumerate(zip(result.targets, counts, strict=True)):
        own = [name for name in names if name in found]
        places = [names.index(name) + (index - (len(counts) - 1) / 2) * height for name in own]
        rates = [found[name].rate for name in own]
        color = COLORS[index % len(COLORS)]
        bars = axes.barh(places, rates, height * 0.85, color=color, label=target.name)
        axes.bar_label(bars, [shown_share(rate) for rate in rates], padding=3, color=INK)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set_xlim(0, 1.2)
    axes.xaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    caption = "Cache hits over the whole run, as the servers count them."
    return Plot(_finished(axes, columns=2), caption)


def _new_axes(height: float) -> Axes:
    return Figure(figsize=(FIGURE_WIDTH, height)).add_subplot()


def _finished(axes: Axes, columns: int) -> Figure:
    """With the legend of all its panels below, unless there is but one line."""
    figure = axes.figure
    assert isinstance(figure, Figure), "nothing here has a subfigure"
    entries = {
        label: handle
        for panel in figure.axes
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    if len(entries) > 1:
        figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=columns)
    return figure


def _line_look(result: Result, place: int, step: int, target: int) -> tuple[str, str]:
    """Colours tell servers apart and dashes loads; of a single server, both tell loads apart."""
    dashes = _LINE_STYLES[step % len(_LINE_STYLES)]
    return COLORS[(place if len(result.targets) == 1 else target) % len(COLORS)], dashes


def _series_name(result: Result, step: int, target: int) -> str:
    names = []
    if len(result.targets) > 1:
        names.append(result.targets[target].name)
    if len(result.steps) > 1 or not names:
        names.append(result.steps[step].load.label)
    return ", ".join(names)


def _scatter(
    axes: Axes, records: Sequence[RequestRecord], metric: MetricName, color: str, label: str
) -> None:
    points = [
        (record.scheduled_s, value)
        for record in records
        if record.is_ok
        for value in latencies(record, metric)
    ]
    picked = _picked(points, _MAX_REQUEST_POINTS)
    if picked:
        times, values = zip(*picked, strict=True)
        axes.plot(times, values, linestyle="", marker=".", markersize=3, color=color, label=label)


def _in_flight(records: Sequence[RequestRecord]) -> tuple[Sequence[float], Sequence[int]]:
    """Starts of equal parts of the time, and the most requests that were unanswered in each."""
    changes = sorted([(r.sent_s, 1) for r in records] + [(r.end_s, -1) for r in records])
    times = np.array([time for time, _ in changes])
    levels = np.concatenate([[0], np.cumsum([change for _, change in changes])])
    starts = np.linspace(times[0], times[-1], _MAX_LINE_POINTS)
    # levels[n] holds behind n changes; a part begins with what the one before it left
    firsts = np.searchsorted(times, starts)
    lasts = np.append(firsts[1:], len(changes))
    most = [int(levels[a : b + 1].max()) for a, b in zip(firsts, lasts, strict=True)]
    return starts.tolist(), most


def _mark_steps(panels: Sequence[Axes], records: Sequence[RequestRecord], num_steps: int) -> None:
    starts: dict[int, float] = {}
    for record in records:
        starts[record.step] = min(record.scheduled_s, starts.get(record.step, np.inf))
    for step in range(num_steps):
        if step not in starts or num_steps == 1:
            continue
        for axes in panels:
            axes.axvline(starts[step], linestyle=":", linewidth=1, color=INK)
        panels[0].text(
            starts[step],
            1.01,
            f" {step + 1}",
            transform=panels[0].get_xaxis_transform(),
            va="bottom",
        )


def _time_axis(axis: XAxis | YAxis) -> None:
    """Logarithmic if that leaves at least two round times to name."""
    low_s, high_s = axis.get_data_interval()
    if not 0 <= low_s <= high_s or high_s == 0:
        return
    low_s = max(low_s, high_s * (_LEAST_X if isinstance(axis, XAxis) else _LEAST_Y))
    spare = max(1.1, math.sqrt(_LEAST_SPAN * low_s / high_s))
    low_s, high_s = low_s / spare, high_s * spare
    ticks = _round_times(low_s, high_s)
    is_log = len(ticks) > 1
    if isinstance(axis, XAxis):
        axis.axes.set(xscale="log" if is_log else "linear", xlim=(low_s, high_s))
    else:
        axis.axes.set(yscale="log" if is_log else "linear", ylim=(low_s, high_s))
    axis.set_major_locator(FixedLocator(ticks) if is_log else MaxNLocator(_MAX_LINEAR_STEPS))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))


def _round_times(low_s: float, high_s: float) -> Sequence[float]:
    """Few enough that their names have room."""
    ticks: list[float] = []
    for parts in ((1, 2, 5), (1, 3), (1,)):
        times = [10.0**power * part for power in range(-6, 6) for part in parts]
        ticks = [time for time in times if low_s <= time <= high_s]
        if len(ticks) <= _MAX_TICKS:
            break
    return ticks


def _tick(value: float) -> str:
    number, unit = shown_time(value).split(" ")
    return f"{float(number.replace(',', '')):g} {unit}"


def _picked(items: Sequence[_Item], at_most: int) -> Sequence[_Item]:
    """Evenly, with the first and the last."""
    if len(items) <= at_most:
        return items
    return [items[round(index)] for index in np.linspace(0, len(items) - 1, at_most)]
