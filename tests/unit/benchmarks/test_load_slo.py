"""Service level objectives, and what of the throughput keeps them."""

import pytest

from benchmarks.load.slo import Bound, SloError, measure_goodput, parse_slo
from tests.load_records import failed, record


def test_a_slo_is_a_list_of_bounds() -> None:
    slo = parse_slo("ttft_p99=500ms, e2e_mean=1.5s")
    assert slo.bounds == (Bound("ttft", "p99", 0.5), Bound("e2e", "mean", 1.5))


@pytest.mark.parametrize(
    "text", ["", "ttft=1s", "ttft_p98=1s", "speed_p50=1s", "ttft_p50=1", "ttft_p50=-1s"]
)
def test_what_is_none_is_refused_by_its_text(text: str) -> None:
    with pytest.raises(SloError, match="METRIC_STAT=TIME"):
        parse_slo(text)


def test_requests_that_keep_every_bound_are_goodput() -> None:
    records = [record(), record(first_s=1.4), record(end_s=3.0)]
    goodput = measure_goodput(parse_slo("ttft_p50=200ms,e2e_p50=1s"), records, duration_s=2.0)
    assert goodput.is_held
    assert goodput.share == pytest.approx(1 / 3)
    assert goodput.requests == pytest.approx(0.5)


def test_a_bound_is_broken_by_its_own_percentile_alone() -> None:
    records = [record()] * 99 + [record(first_s=3.0)]
    assert measure_goodput(parse_slo("ttft_p90=200ms"), records, 1.0).is_held
    assert not measure_goodput(parse_slo("ttft_max=200ms"), records, 1.0).is_held


def test_failed_requests_never_end() -> None:
    slo = parse_slo("ttft_p99=10s")
    goodput = measure_goodput(slo, [record()] * 90 + [failed()] * 10, 1.0)
    assert not goodput.is_held
    assert goodput.measured_s == {"ttft_p99": None}
    assert goodput.share == 0.9


def test_few_failures_do_not_break_a_median() -> None:
    goodput = measure_goodput(parse_slo("ttft_p50=10s"), [record()] * 9 + [failed()], 1.0)
    assert goodput.is_held
    assert goodput.measured_s["ttft_p50"] == pytest.approx(0.1)


def test_two_limits_of_one_kind_are_refused() -> None:
    with pytest.raises(SloError, match="two limits"):
        parse_slo("ttft_p99=1s,ttft_p99=2s")


def test_a_percentile_beside_a_failure_is_what_came() -> None:
    goodput = measure_goodput(parse_slo("ttft_p50=1s"), [record(), record(), failed()], 1.0)
    assert goodput.measured_s["ttft_p50"] == pytest.approx(0.1)


def test_an_answer_that_ends_in_its_reasoning_has_no_first_answer() -> None:
    endless = record(first_answer_s=None)
    goodput = measure_goodput(parse_slo("ttfa_p99=10s"), [record(), endless], 1.0)
    assert not goodput.is_held
    assert goodput.share == 0.5


def test_a_failed_request_lacks_as_many_gaps_as_others_have() -> None:
    records = [record(gaps_s=(0.1,) * 100), record(gaps_s=(0.1,) * 100), failed(gaps_s=())]
    assert not measure_goodput(parse_slo("itl_p90=1s"), records, 1.0).is_held
    assert measure_goodput(parse_slo("itl_p50=1s"), records, 1.0).is_held


def test_an_answer_of_one_token_breaks_no_limit_between_tokens() -> None:
    single = record(gaps_s=(), completion_tokens=1)
    goodput = measure_goodput(parse_slo("itl_p99=1s,tpot_p99=1s"), [record(), single], 1.0)
    assert goodput.is_held
    assert goodput.share == 1.0


def test_every_gap_counts_for_the_time_between_tokens() -> None:
    slow = record(gaps_s=(0.1, 0.9))
    goodput = measure_goodput(parse_slo("itl_p50=200ms"), [record(), slow], 1.0)
    assert goodput.is_held
    assert goodput.share == 0.5
