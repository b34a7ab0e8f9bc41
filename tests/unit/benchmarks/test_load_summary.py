"""Numbers over many requests."""

import pytest

from benchmarks.load.client_load import ClientLoad
from benchmarks.load.scrape import HitCount
from benchmarks.load.slo import parse_slo
from benchmarks.load.summary import Block, summarize
from tests.load_records import IDLE_CLIENT, block, failed, record


def test_latencies_count_from_when_a_request_was_due() -> None:
    late = record(scheduled_s=0.5)
    assert (late.ttft_s, late.ttfa_s) == pytest.approx((0.6, 0.7))
    assert late.e2e_s == pytest.approx(1.1)
    assert late.tpot_s == pytest.approx(0.1)


def test_one_token_has_no_time_per_token() -> None:
    assert record(completion_tokens=1).tpot_s is None


def test_failed_requests_are_counted_and_nothing_else_of_them() -> None:
    summary = summarize([block([record(), failed(num_images=5)], duration_s=2.0)], ())
    assert summary.totals.errors == {"http_5xx": 1}
    assert (summary.totals.requests, summary.totals.answered, summary.totals.images) == (2, 1, 1)
    assert summary.throughput.requests == 0.5
    assert summary.throughput.completion_tokens == 2.5
    assert summary.latencies["e2e"].count == 1


def test_blocks_are_pooled() -> None:
    busy = ClientLoad(0.9, 0.01, 0.02)
    blocks = [
        Block([record()], 1.0, IDLE_CLIENT, {"prefix": HitCount(1, 4)}),
        Block(
            [record(first_s=1.3)], 3.0, busy, {"prefix": HitCount(3, 4), "pixels": HitCount(1, 1)}
        ),
    ]
    summary = summarize(blocks, [parse_slo("ttft_max=200ms")])
    assert summary.duration_s == 4.0
    assert summary.latencies["ttft"].p50 == pytest.approx(0.2)
    assert summary.caches == {"prefix": HitCount(4, 8), "pixels": HitCount(1, 1)}
    assert summary.caches["prefix"].rate == 0.5
    assert summary.client.cpu_share == pytest.approx(0.5)
    assert summary.client.send_delay_p99_s == pytest.approx(0.01)
    assert summary.client.is_limit
    assert summary.goodput[0].requests == 0.25


def test_a_server_without_metrics_tells_of_its_prefix_cache_in_the_usage() -> None:
    assert summarize([block([record(), record()])], ()).caches == {"prefix": HitCount(20, 200)}
    assert summarize([block([record(cached_tokens=0)])], ()).caches == {}
