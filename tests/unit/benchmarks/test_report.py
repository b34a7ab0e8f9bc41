"""Reports: ratios say how many times better ours is; the last line is one JSON document."""

import json

import pytest

from benchmarks.report import Aim, Report, Row, Sample, cpu_name, median_row


def test_of_times_the_smaller_one_is_better() -> None:
    assert Row("first token", ours=0.5, stock=2.0, unit="s").ratio == 4


def test_of_throughputs_the_larger_one_is_better() -> None:
    assert Row("80 %", ours=30.0, stock=10.0, unit="requests/s").ratio == 3


def test_each_side_has_its_own_median() -> None:
    samples = [Sample(1, 9), Sample(5, 7), Sample(2, 8)]
    assert median_row("first token", samples, "s") == Row("first token", 2, 8, "s")


def test_an_aim_may_be_a_lower_or_an_upper_bound() -> None:
    assert Aim("times sooner", measured=3.0, bound=3).is_met
    assert not Aim("times sooner", measured=2.9, bound=3).is_met
    assert Aim("times the floor", measured=1.1, bound=1.2, at_least=False).is_met
    assert not Aim("times the floor", measured=1.3, bound=1.2, at_least=False).is_met


def test_the_last_line_is_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row("first token", 0.5, 2.0, "s")]
    Report("restart", rows, [Aim("times sooner", 4.0, 5)]).print()
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document.keys() == {"benchmark", "machine", "rows", "aims", "warnings"}
    assert document["benchmark"] == "restart"
    assert document["machine"].keys() == {"cores", "cpu", "gpus", "memory_gib", "system"}
    (row,) = document["rows"]
    numbers = {"ours": 0.5, "stock": 2.0, "ratio": 4.0, "low": None, "high": None}
    assert row == {"name": "first token", "unit": "s", **numbers}
    assert document["aims"] == [
        {"text": "times sooner", "measured": 4.0, "bound": 5, "at_least": True, "is_met": False}
    ]


def test_the_table_is_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    Report("restart", [Row("first token", 0.5, 2.0, "s")], []).print()
    assert capsys.readouterr().out.splitlines()[:3] == [
        "| | ours | stock | ratio | 95 % interval |",
        "|---|---|---|---|---|",
        "| first token | 0.5 s | 2 s | 4.00 |  |",
    ]
    Report("text", [Row("tokens", 1800.0, 900.0, "tokens/s", 1.5, 2.5)], []).print()
    line = "| tokens | 1,800 tokens/s | 900 tokens/s | 2.00 | 1.50 – 2.50 |"
    assert line in capsys.readouterr().out.splitlines()


def test_the_cpu_is_named_where_the_system_names_it() -> None:
    assert cpu_name("processor\t: 0\nmodel name\t: AMD EPYC\n") == "AMD EPYC"
    assert cpu_name("processor\t: 0\n") == "unknown"
