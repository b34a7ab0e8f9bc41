"""Ratios of two servers with their confidence intervals."""

import random

import pytest

from benchmarks.load.ratio import compare
from benchmarks.load.summary import Block
from tests.load_records import block, failed, record


def blocks(ttft_s: float, seed: int, duration_s: float = 1.0) -> list[Block]:
    """Ten blocks of twenty requests, with noise of a tenth."""
    noise = random.Random(seed)
    return [
        block([record(first_s=1 + ttft_s * noise.uniform(0.9, 1.1)) for _ in range(20)], duration_s)
        for _ in range(10)
    ]


def test_above_one_the_first_is_better() -> None:
    ratios = {r.metric: r for r in compare(blocks(0.1, 1), blocks(0.2, 2, duration_s=4.0), seed=0)}
    assert ratios["ttft_p50"].ratio == pytest.approx(2, rel=0.1)
    assert ratios["requests_per_s"].ratio == pytest.approx(4)
    assert ratios["completion_tokens_per_s"].ratio == pytest.approx(4)


def test_the_interval_holds_the_ratio_and_is_as_wide_as_the_noise() -> None:
    (ttft,) = [r for r in compare(blocks(0.1, 1), blocks(0.1, 2), seed=0) if r.metric == "ttft_p50"]
    assert ttft.low < 1 < ttft.high
    assert ttft.low <= ttft.ratio <= ttft.high
    assert ttft.low > 0.9 and ttft.high < 1.1


def test_the_interval_grows_with_the_difference_between_blocks() -> None:
    even = blocks(0.1, 1)
    uneven = [b for ttft_s in (0.05, 0.2) for b in blocks(ttft_s, 2)[:5]]

    def width(first: list[Block]) -> float:
        ratio = next(r for r in compare(first, blocks(0.1, 3), seed=0) if r.metric == "ttft_p50")
        return ratio.high - ratio.low

    assert width(uneven) > 3 * width(even)


def test_few_blocks_have_no_interval() -> None:
    for ratio in compare(blocks(0.1, 1)[:4], blocks(0.2, 2)[:4], seed=0):
        assert (ratio.low, ratio.high) == (None, None)


def test_what_one_of_them_never_had_is_left_out() -> None:
    dead = [block([failed() for _ in range(20)]) for _ in range(10)]
    assert list(compare(blocks(0.1, 1), dead, seed=0)) == []


def test_blocks_without_a_partner_are_refused() -> None:
    with pytest.raises(ValueError, match="partner"):
        compare(blocks(0.1, 1), blocks(0.1, 2)[:9], seed=0)
