"""What the comparison of text takes from the load test: ratios, intervals, memory, aims."""

from dataclasses import replace

import pytest

from benchmarks.load.arrivals import ClosedLoop
from benchmarks.load.client_load import ClientLoad
from benchmarks.load.latency import Distribution
from benchmarks.load.ratio import Ratio
from benchmarks.load.result import MemoryUse, Result, Step, Target
from benchmarks.load.summary import Summary, Throughput, Totals
from benchmarks.text import aims, rows

_GIB = 1024**3


def make_summary(tokens_per_s: float, tpot_s: float, prompt_tokens: int = 4000) -> Summary:
    totals = Totals(100, 100, {}, 0, 0, prompt_tokens, 12800, 0, 0)
    times = {"ttft": Distribution.of([0.02]), "tpot": Distribution.of([tpot_s])}
    return Summary(
        10.0, totals, Throughput(10, 0, 0, 400, tokens_per_s), times, {}, ClientLoad(0.1, 0, 0), ()
    )


def make_step(ours: Summary, stock: Summary) -> Step:
    ratios = [
        Ratio("completion_tokens_per_s", 0.8, 0.7, 0.9),
        Ratio("tpot_p50", 0.9, 0.8, 1.02),
        Ratio("ttft_p50", 0.5, 0.4, 0.6),
    ]
    return Step(ClosedLoop(8), 4, [ours, stock], ratios)


def make_result(step: Step) -> Result:
    memory = {"server": MemoryUse(2 * _GIB, 3 * _GIB), "vs": MemoryUse(3 * _GIB, 3 * _GIB)}
    return Result(
        started_at="2026-11-22T10:00:00+00:00",
        duration_s=60.0,
        arguments=[],
        client_version="0.1.0",
        machine={},
        workload="chat",
        options={},
        targets=[Target(n, "http://127.0.0.1", "m", memory=use) for n, use in memory.items()],
        steps=[step],
        highest=[],
        warnings=["the client was the limit"],
        profiles=[],
    )


_STEP = make_step(make_summary(800.0, 0.010), make_summary(1000.0, 0.009))


def test_rows_have_the_ratios_of_the_load_test_and_their_intervals() -> None:
    found = {row.name: row for row in rows(make_result(_STEP))}
    tokens = found["8 at once: tokens out"]
    assert (tokens.ours, tokens.stock, tokens.unit) == (800.0, 1000.0, "tokens/s")
    assert (tokens.ratio, tokens.low, tokens.high) == (0.8, 0.7, 0.9)
    tpot = found["8 at once: time per token"]
    assert (tpot.ours, tpot.stock, tpot.unit) == (10.0, 9.0, "ms")
    memory = found["memory when ready"]
    assert (memory.ours, memory.stock, memory.ratio, memory.low) == (2.0, 3.0, 1.5, None)
    assert found["memory at most"].ratio == 1


def test_an_aim_is_met_where_the_interval_reaches_one() -> None:
    verdicts = {
        aim.text.partition(" times")[0]: aim.is_met for aim in aims(rows(make_result(_STEP)))
    }
    assert verdicts == {"8 at once: tokens out:": False, "8 at once: time per token:": True}


def test_failed_requests_and_different_work_are_errors() -> None:
    ours, stock = _STEP.summaries
    failed = replace(ours, totals=replace(ours.totals, errors={"timeout": 1}))
    with pytest.raises(RuntimeError, match="requests failed"):
        rows(make_result(make_step(failed, stock)))
    shorter = replace(ours, totals=replace(ours.totals, completion_tokens=12799))
    with pytest.raises(RuntimeError, match="answers differ"):
        rows(make_result(make_step(shorter, stock)))
    with pytest.raises(RuntimeError, match="prompts differ"):
        rows(make_result(make_step(make_summary(800.0, 0.01, prompt_tokens=4100), stock)))
