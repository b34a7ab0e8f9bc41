"""Tables on standard output: readable in a file, and never steered by a server."""

import io
from dataclasses import replace

from benchmarks.load.arrivals import ClosedLoop, OpenLoop
from benchmarks.load.comparison import compare_results
from benchmarks.load.measure import (
    Measure,
    measures,
    shown,
    shown_bytes,
    shown_ratios,
    shown_time,
    side_by_side,
)
from benchmarks.load.result import Highest, Result
from benchmarks.load.table import print_comparison, print_summary
from tests.load_results import SLO, make_run


def _printed(result: Result) -> str:
    file = io.StringIO()
    print_summary(result, file)
    return file.getvalue()


def test_every_number_is_in_its_row() -> None:
    result, _ = make_run(targets=["server", "vs"], failures=2)
    lines = _printed(result).splitlines()
    (step,) = result.steps
    ratios = shown_ratios(step.ratios)
    assert ratios
    for first, second in side_by_side([measures(summary) for summary in step.summaries]):
        assert first is not None and second is not None
        row = f"{first.name} {shown(first)} {shown(second)} {ratios.get(first.key, '')}".strip()
        assert row in [" ".join(line.split()) for line in lines]


def test_a_file_gets_neither_colours_nor_long_lines() -> None:
    result, _ = make_run(targets=["server", "vs"], loads=[ClosedLoop(1), OpenLoop(4)])
    text = _printed(replace(result, warnings=["word " * 50]))
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_loads_are_numbered() -> None:
    result, _ = make_run(loads=[ClosedLoop(1), OpenLoop(4)])
    lines = [line.strip() for line in _printed(result).splitlines()]
    assert "1. 1 at once" in lines and "2. 4 requests/s" in lines


def test_rates_that_keep_an_slo_and_warnings_come_last() -> None:
    result, _ = make_run(targets=["server", "vs"])
    found = [Highest(0, SLO, 7.25), Highest(1, SLO, None)]
    text = _printed(replace(result, highest=found, warnings=["few requests"]))
    assert text.splitlines()[-3:] == [
        f"highest rate that keeps {SLO}, server: 7.25 requests/s",
        f"highest rate that keeps {SLO}, vs: none",
        "warning: few requests",
    ]


def test_a_server_cannot_steer_the_terminal() -> None:
    result, _ = make_run()
    hostile = "[red]\x1b[2J\x07\x9b31m\u202e[/nothing]"
    target = replace(result.targets[0], name=hostile)
    text = _printed(replace(result, targets=[target], warnings=[hostile]))
    assert not set(text) & set("\x1b\x07\x9b\u202e")
    assert "[red]" in text and "[/nothing]" in text


def test_a_cache_that_only_one_server_has_keeps_its_place() -> None:
    result, _ = make_run(targets=["server", "vs"])
    (step,) = result.steps
    first, second = step.summaries
    step = replace(step, summaries=[replace(first, caches={}), second])
    lines = [line.split() for line in _printed(replace(result, steps=[step])).splitlines()]
    assert ["prefix", "–", "30.0", "%"] in lines
    assert lines.index(["Cache", "hits"]) < lines.index(["Client"])


def test_a_failed_request_makes_percentiles_of_an_slo_endless() -> None:
    result, _ = make_run(num_requests=20, failures=2)
    lines = [line.split() for line in _printed(result).splitlines()]
    assert ["ttft_p99", "endless"] in lines and ["verdict", "missed"] in lines


def test_a_percentile_of_an_slo_is_not_that_of_answered_requests() -> None:
    result, _ = make_run(targets=["server", "vs"], failures=2, num_blocks=5)
    lines = [line.split() for line in _printed(result).splitlines()]
    assert ["ttft_p99", "endless", "endless"] in lines
    (row,) = [line for line in lines if line[:2] == ["TTFT", "p99"]]
    assert "(" in row[7]


def test_a_comparison_begins_with_its_caveats() -> None:
    result, _ = make_run()
    file = io.StringIO()
    print_comparison(compare_results(result, replace(result, options={})), file)
    lines = file.getvalue().splitlines()
    assert lines[1] == "caveat: not the same workload: seed 1 / none"
    (row,) = [line.split() for line in lines if line.split()[:2] == ["TTFT", "p50"]]
    assert row[2:4] == row[4:6] and row[6] == "1.00"


def test_a_comparison_of_nothing_says_so() -> None:
    first, _ = make_run(loads=[ClosedLoop(1)])
    second, _ = make_run(loads=[ClosedLoop(2)])
    file = io.StringIO()
    print_comparison(compare_results(first, second), file)
    assert file.getvalue().splitlines()[-1] == "The two runs have no load in common."


def test_numbers_have_three_digits_and_a_unit() -> None:
    times = [shown_time(value) for value in (0.00012, 0.0123, 0.4567, 0.9999, 1.234, 12.34, 1234.5)]
    assert times == ["0.12 ms", "12.3 ms", "457 ms", "1,000 ms", "1.23 s", "12.3 s", "1,234 s"]
    sizes = [shown_bytes(value) for value in (12, 2048, 5 << 20, 3 << 30)]
    assert sizes == ["12 B", "2.00 KiB", "5.00 MiB", "3.00 GiB"]
    assert shown(Measure("Cache hits", "cache_prefix", "prefix", "share", 0.6214)) == "62.1 %"
    assert shown(Measure("Requests", "requests", "requests", "count", 12345)) == "12,345"
    assert shown(None) == "–"
