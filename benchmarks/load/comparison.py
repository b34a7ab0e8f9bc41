"""Two results of different runs beside each other: `--compare a.json b.json`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from benchmarks.load.measure import Measure, Row, Unit, label_of, measures, side_by_side
from benchmarks.load.result import Result, Step, Target

_MISSING = "none"
# It changes nothing that is measured.
_IRRELEVANT = frozenset({"--output-dir"})


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """One number in both results.

    Attributes:
        a, b: in `unit`; None where a result does not have it, or where it is endless.
        ratio: how many times better b is: b / a of throughputs, a / b of times. None of numbers
            that speak for nobody, and where one is missing or 0.
    """

    group: str
    key: str
    name: str
    unit: Unit
    a: float | None
    b: float | None
    ratio: float | None


@dataclass(frozen=True, slots=True)
class ComparedStep:
    """The server in one position (`target`) under one load."""

    load: str
    target: int
    name: str
    rows: Sequence[ComparedRow]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Attributes:
    a, b: when the runs started.
    caveats: what differs besides the numbers, and what the runs themselves warned of.
    """

    a: str
    b: str
    caveats: Sequence[str]
    steps: Sequence[ComparedStep]
    format: Literal["qwen3vl-serve comparison 1"] = "qwen3vl-serve comparison 1"


def compare_results(a: Result, b: Result) -> Comparison:
    """Steps belong together by their load, servers by their position."""
    steps = [*_steps(a, b), *_highest(a, b)]
    return Comparison(a.started_at, b.started_at, list(_caveats(a, b)), steps)


def encode_comparison(comparison: Comparison) -> bytes:
    """JSON on one line."""
    return orjson.dumps(comparison)


def _steps(a: Result, b: Result) -> Iterator[ComparedStep]:
    others = _by_label(b)
    for label, step in _by_label(a).items():
        if label not in others:
            continue
        pairs = zip(step.summaries, others[label].summaries, strict=False)
        for position, (first, second) in enumerate(pairs):
            rows = side_by_side([measures(first), measures(second)])
            name = a.targets[position].name
            yield ComparedStep(label, position, name, [_compared(row) for row in rows])


def _highest(a: Result, b: Result) -> Iterator[ComparedStep]:
    """What ramps have found."""
    others = {(found.slo, found.target): found.request_rate for found in b.highest}
    for found in a.highest:
        if (found.slo, found.target) not in others:
            continue
        first, second = found.request_rate, others[found.slo, found.target]
        ratio = second / first if first and second else None
        row = ComparedRow("Throughput", "highest", "requests/s", "per_s", first, second, ratio)
        name = a.targets[found.target].name
        yield ComparedStep(f"highest rate that keeps {found.slo}", found.target, name, [row])


def _by_label(result: Result) -> Mapping[str, Step]:
    return {step.load.label: step for step in result.steps}


def _compared(row: Row) -> ComparedRow:
    a, b = (None if measure is None else measure.value for measure in row)
    label = label_of(row)
    ratio = _times_better(label, a, b)
    return ComparedRow(label.group, label.key, label.name, label.unit, a, b, ratio)


def _times_better(measure: Measure, a: float | None, b: float | None) -> float | None:
    if measure.better is None or not a or not b:
        return None
    return b / a if measure.better == "higher" else a / b


def _caveats(a: Result, b: Result) -> Iterator[str]:
    yield from _differences("workload", {"": a.workload}, {"": b.workload})
    yield from _differences("workload", a.options, b.options)
    yield from _differences("machine", a.machine, b.machine)
    yield from _differences("client", {"": a.client_version}, {"": b.client_version})
    yield from _differences("arguments", _flags(a.arguments), _flags(b.arguments))
    if len(a.targets) != len(b.targets):
        yield f"not as many servers: {len(a.targets)} / {len(b.targets)}"
    for first, second in zip(a.targets, b.targets, strict=False):
        yield from _differences(f"server ({first.name})", _described(first), _described(second))
    yield from _unmatched("a", _by_label(a), _by_label(b))
    yield from _unmatched("b", _by_label(b), _by_label(a))
    yield from (f"a: {warning}" for warning in a.warnings)
    yield from (f"b: {warning}" for warning in b.warnings)


def _differences(what: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[str]:
    for name in dict.fromkeys([*a, *b]):
        first, second = a.get(name, _MISSING), b.get(name, _MISSING)
        if first != second:
            yield f"not the same {what}: {f'{name} ' if name else ''}{first} / {second}"


def _flags(arguments: Sequence[str]) -> Mapping[str, str]:
    """Values by flag, those of one that is repeated together."""
    flags: dict[str, str] = {}
    flag = ""
    for argument in arguments:
        if argument.startswith("--"):
            flag, _, value = argument.partition("=")
        else:
            value = argument
        flags[flag] = f"{flags.get(flag, '')} {value}".strip()
    return {flag: value for flag, value in flags.items() if flag not in _IRRELEVANT}


def _described(target: Target) -> Mapping[str, Any]:
    return {"model": target.model, "version": target.version, "command": target.command}


def _unmatched(name: str, steps: Mapping[str, Step], others: Mapping[str, Step]) -> Iterator[str]:
    yield from (f"only in {name}: {label}" for label in steps if label not in others)
