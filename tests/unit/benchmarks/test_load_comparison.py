"""Comparisons: above 1 the second run is better, and what else differs comes first."""

import json
from dataclasses import replace

import pytest

from benchmarks.load.arrivals import ClosedLoop, OpenLoop
from benchmarks.load.comparison import (
    ComparedRow,
    ComparedStep,
    compare_results,
    encode_comparison,
)
from benchmarks.load.result import Result
from tests.load_results import make_run


def _rows(step: ComparedStep) -> dict[str, ComparedRow]:
    return {row.key: row for row in step.rows}


def _faster(result: Result, factor: float) -> Result:
    """Half the latencies and twice the throughput for a factor of 2."""
    steps = []
    for step in result.steps:
        summaries = []
        for summary in step.summaries:
            ttft = summary.latencies["ttft"]
            latencies = {**summary.latencies, "ttft": replace(ttft, p50=ttft.p50 / factor)}
            rate = summary.throughput.requests * factor
            throughput = replace(summary.throughput, requests=rate)
            summaries.append(replace(summary, latencies=latencies, throughput=throughput))
        steps.append(replace(step, summaries=summaries))
    return replace(result, steps=steps)


def test_above_1_the_second_is_better() -> None:
    result, _ = make_run()
    (step,) = compare_results(result, _faster(result, 2)).steps
    rows = _rows(step)
    assert rows["ttft_p50"].ratio == pytest.approx(2)
    assert rows["requests_per_s"].ratio == pytest.approx(2)
    assert rows["e2e_p50"].ratio == 1
    (step,) = compare_results(_faster(result, 2), result).steps
    assert _rows(step)["ttft_p50"].ratio == pytest.approx(0.5)
    assert _rows(step)["requests_per_s"].ratio == pytest.approx(0.5)


def test_numbers_that_speak_for_nobody_have_no_ratio() -> None:
    result, _ = make_run()
    (step,) = compare_results(result, result).steps
    rows = _rows(step)
    assert rows["requests"].a == rows["requests"].b == 20
    for key in ("requests", "duration", "client_cpu", "slo_is_held", "reasoning_tokens"):
        assert rows[key].ratio is None


def test_what_only_one_of_them_has_is_shown_without_a_ratio() -> None:
    first, _ = make_run()
    second, _ = make_run(failures=2)
    (step,) = compare_results(first, second).steps
    rows = _rows(step)
    assert (rows["errors_http_5xx"].a, rows["errors_http_5xx"].b) == (None, 2)
    assert rows["errors_http_5xx"].ratio is None
    assert (rows["errors"].a, rows["errors"].b, rows["errors"].ratio) == (0, 2, None)


def test_steps_belong_together_by_load_and_servers_by_position() -> None:
    first, _ = make_run(targets=["server", "vs"], loads=[ClosedLoop(1), OpenLoop(4)])
    second, _ = make_run(targets=["server"], loads=[OpenLoop(4), OpenLoop(8)])
    comparison = compare_results(first, second)
    assert [(step.load, step.target) for step in comparison.steps] == [("4 requests/s", 0)]
    rows = _rows(comparison.steps[0])
    assert rows["ttft_p50"].a == first.steps[1].summaries[0].latencies["ttft"].p50
    assert rows["ttft_p50"].b == second.steps[0].summaries[0].latencies["ttft"].p50
    assert comparison.caveats == [
        "not as many servers: 2 / 1",
        "only in a: 1 at once",
        "only in b: 8 requests/s",
    ]


def test_equal_runs_have_no_caveats() -> None:
    result, _ = make_run()
    elsewhere = replace(result, arguments=[*result.arguments, "--output-dir", "elsewhere"])
    assert compare_results(result, elsewhere).caveats == []


def test_what_differs_is_said() -> None:
    result, _ = make_run()
    other = replace(
        result,
        workload="chat",
        options={"seed": 2, "max_tokens": 20, "thinking": True},
        machine={"cores": 8, "cpu": "Some CPU"},
        client_version="0.7.0",
        arguments=["--base-url=http://127.0.0.1:8000", "--workload", "chat", "--seed", "2"],
        targets=[replace(result.targets[0], model="other")],
        warnings=["the client was the limit"],
    )
    assert compare_results(result, other).caveats == [
        "not the same workload: images / chat",
        "not the same workload: seed 1 / 2",
        "not the same workload: thinking none / True",
        "not the same machine: cores 2 / 8",
        "not the same client: 0.6.0 / 0.7.0",
        "not the same arguments: --workload images / chat",
        "not the same arguments: --seed 1 / 2",
        "not the same server (server): model Qwen/Qwen3-VL-2B / other",
        "b: the client was the limit",
    ]


def test_the_document_is_one_line_of_json() -> None:
    result, _ = make_run()
    comparison = compare_results(result, _faster(result, 2))
    line = encode_comparison(comparison).decode()
    assert "\n" not in line
    document = json.loads(line)
    assert document.keys() == {"a", "b", "caveats", "steps", "format"}
    (step,) = document["steps"]
    assert (step["load"], step["target"], step["name"]) == ("8 at once", 0, "server")
    assert {row["key"]: row for row in step["rows"]}["ttft_p50"]["unit"] == "s"
