"""The report of a run: one HTML file that can be mailed, and read on a phone."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from benchmarks.html_page import (
    code_block,
    escape,
    figure,
    figures,
    page,
    paragraph,
    section,
    table,
    warning,
)
from benchmarks.load.measure import (
    ABSENT,
    Row,
    label_of,
    measures,
    ratio_meaning,
    shown,
    shown_bytes,
    shown_count,
    shown_number,
    shown_ratios,
    shown_time,
    side_by_side,
)
from benchmarks.load.plots import draw_plots
from benchmarks.load.record import RequestRecord
from benchmarks.load.result import Result, Step, Target
from benchmarks.load.slo import Goodput

_MAX_MESSAGE_CHARS = 300
_OVERVIEW = {
    "requests_per_s": "requests/s",
    "completion_tokens_per_s": "tokens out/s",
    "ttft_p50": "TTFT p50",
    "ttft_p99": "TTFT p99",
    "e2e_p99": "E2E p99",
    "errors": "errors",
}
_MEANINGS = (
    (
        "TTFT",
        "Time to first token: from when a request was due to its first token, reasoning or answer.",
    ),
    ("TTFA", "Time to first answer: the same to the first token behind the reasoning."),
    ("ITL", "Inter-token latency: between two chunks of an answer."),
    ("TPOT", "Time per output token: over a whole answer, without its first token."),
    ("E2E", "End to end: from when a request was due to its last byte."),
    ("p50, p90, p99", "50, 90, 99 of 100 values are at most that high."),
    ("throughput", "Of answered requests; tokens as the server counts them."),
    ("errors", "Requests without a whole answer. They are in no latency, but count for an SLO."),
    ("cache hits", "Share of what was looked up, from the server's /metrics before and after."),
    (
        "SLO",
        "Service level objective: held if its percentiles are, a failed request being endless.",
    ),
    ("goodput", "Requests per second that keep every limit of the SLO themselves."),
    ("ratio", "How many times better the first server is. If its interval has 1 in it: no winner."),
    ("client", "What the load test itself took. If high, the numbers are the client's."),
)


def render_report(result: Result, records: Sequence[RequestRecord]) -> str:
    """A document of HTML.

    Args:
        records: of all requests; their `target` and `step` are positions in the result. Without
            them there are fewer drawings, and errors without their messages.
    """
    plots = draw_plots(result, records)
    parts = [
        paragraph(_when(result)),
        warning("Read this first", result.warnings),
        "<h2>Overview</h2>",
        _overview(result),
        _highest(result),
        _ratios(result),
        figures([figure(plot.figure, plot.caption) for plot in plots]),
        _errors(result, records),
        "<h2>All numbers</h2>",
        *(_all_numbers(result, index, step) for index, step in enumerate(result.steps)),
        "<h2>What was asked</h2>",
        _pairs({"workload": result.workload, **result.options}),
        *(_server(target) for target in result.targets),
        _profiles(result.profiles),
        "<h2>Client</h2>",
        _pairs({"version": result.client_version, **result.machine}),
        "<h2>How to repeat it</h2>",
        code_block(_command(result.arguments)),
        "<h2>What the words mean</h2>",
        table(["", "meaning"], _MEANINGS),
    ]
    return page(f"Load test: {result.workload}", "\n".join(part for part in parts if part))


def _when(result: Result) -> str:
    started_at = datetime.fromisoformat(result.started_at)
    names = " and ".join(f"{target.model} at {target.base_url}" for target in result.targets)
    return f"{started_at:%Y-%m-%d %H:%M} UTC, {shown_time(result.duration_s)}: {names}."


def _overview(result: Result) -> str:
    """The most important numbers, a row for each load and server."""
    slos = list(dict.fromkeys(g.slo for step in result.steps for g in _goodputs(step)))
    rows = []
    for index, step in enumerate(result.steps):
        for target, summary in zip(result.targets, step.summaries, strict=True):
            found = {measure.key: measure for measure in measures(summary)}
            cells = [shown(found.get(key)) for key in _OVERVIEW]
            kept = {goodput.slo: _kept(goodput) for goodput in summary.goodput}
            verdicts = [kept.get(slo, ABSENT) for slo in slos]
            rows.append([_step_name(index, step), target.name, *cells, *verdicts])
    headers = ["load", "server", *_OVERVIEW.values(), *slos]
    if len(result.targets) == 1:
        headers, rows = [headers[0], *headers[2:]], [[row[0], *row[2:]] for row in rows]
    return table(headers, rows)


def _goodputs(step: Step) -> Sequence[Goodput]:
    return [goodput for summary in step.summaries for goodput in summary.goodput]


def _kept(goodput: Goodput) -> str:
    verdict = "held" if goodput.is_held else "missed"
    return f"{verdict}, goodput {shown_number(goodput.requests)}/s"


def _highest(result: Result) -> str:
    rows = [
        [
            result.targets[found.target].name,
            found.slo,
            "none" if found.request_rate is None else f"{found.request_rate:g} requests/s",
        ]
        for found in result.highest
    ]
    title = "<h3>Highest rate that keeps an SLO</h3>"
    return f"{title}\n{table(['server', 'SLO', 'rate'], rows)}" if rows else ""


def _ratios(result: Result) -> str:
    """Of two servers: a row for each metric, a column for each load."""
    columns = [shown_ratios(step.ratios) for step in result.steps]
    if not any(columns):
        return ""
    labels = [label_of(row) for step in result.steps for row in _rows(step)]
    names = {label.key: label.name for label in labels}
    rows = [
        [name, *(column.get(key, ABSENT) for column in columns)]
        for key, name in names.items()
        if any(key in column for column in columns)
    ]
    headers = ["", *(_step_name(index, step) for index, step in enumerate(result.steps))]
    first, second = (target.name for target in result.targets)
    meaning = paragraph(f"The {ratio_meaning(first, second)}.")
    return f"<h3>{escape(f'{first} against {second}')}</h3>\n{meaning}\n{table(headers, rows)}"


def _errors(result: Result, records: Sequence[RequestRecord]) -> str:
    rows = list(_error_rows(result, records))
    headers = ["error", "server", "requests", "for example"]
    return f"<h2>Errors</h2>\n{table(headers, rows)}" if rows else ""


def _error_rows(result: Result, records: Sequence[RequestRecord]) -> Iterator[Sequence[str]]:
    """By kind and server, over all loads."""
    examples = {(r.target, r.error): r.message for r in reversed(records) if r.message}
    for index, target in enumerate(result.targets):
        counts: dict[str, int] = {}
        for step in result.steps:
            for kind, count in step.summaries[index].totals.errors.items():
                counts[kind] = counts.get(kind, 0) + count
        for kind, count in sorted(counts.items()):
            message = next((m for key, m in examples.items() if key == (index, kind)), None)
            yield [kind, target.name, shown_count(count), (message or ABSENT)[:_MAX_MESSAGE_CHARS]]


def _all_numbers(result: Result, index: int, step: Step) -> str:
    cells: list[list[str]] = []
    group = None
    for row in _rows(step):
        label = label_of(row)
        if label.group != group:
            group = label.group
            cells.append([group])
        cells.append([label.name, *map(shown, row)])
    numbers = table(["", *(target.name for target in result.targets)], cells)
    return section(_step_name(index, step), numbers, is_open=len(result.steps) == 1)


def _rows(step: Step) -> Sequence[Row]:
    return side_by_side([measures(summary) for summary in step.summaries])


def _step_name(index: int, step: Step) -> str:
    return f"{index + 1}. {step.load.label}"


def _server(target: Target) -> str:
    pairs: dict[str, Any] = {"model": target.model, "URL": target.base_url}
    if target.ready_s is not None:
        pairs["ready after"] = shown_time(target.ready_s)
    if target.memory is not None:
        pairs["memory, idle"] = shown_bytes(target.memory.idle_bytes)
        pairs["memory, peak"] = shown_bytes(target.memory.peak_bytes)
    pairs |= target.version or {}
    command = "" if target.command is None else code_block(target.command)
    return f"<h2>{escape(f'Server: {target.name}')}</h2>\n{_pairs(pairs)}\n{command}"


def _profiles(profiles: Sequence[str]) -> str:
    names = code_block("\n".join(profiles))
    return f"<h2>Profiles</h2>\n{names}" if profiles else ""


def _command(arguments: Sequence[str]) -> str:
    """For a shell, a line for each flag."""
    lines = ["qwen3vl-serve bench"]
    for argument in arguments:
        if argument.startswith("--"):
            lines.append(shlex.quote(argument))
        else:
            lines[-1] += f" {shlex.quote(argument)}"
    return " \\\n  ".join(lines)


def _pairs(pairs: Mapping[str, Any]) -> str:
    return table(["", "value"], [[name, _text(value)] for name, value in pairs.items()])


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
