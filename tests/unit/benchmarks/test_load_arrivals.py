"""When requests are due."""

import numpy as np
import pytest

from benchmarks.load.arrivals import OpenLoop, arrival_times


def gaps(load: OpenLoop, share: float = 1.0) -> np.ndarray:  # type: ignore[type-arg]
    return np.diff(arrival_times(load, share, 20001, (1, 2)))


def test_poisson_arrivals_have_the_rate_and_its_variation() -> None:
    found = gaps(OpenLoop(50.0))
    assert found.mean() == pytest.approx(1 / 50, rel=0.05)
    assert found.std() / found.mean() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(("burstiness", "variation"), [(0.25, 2.0), (4.0, 0.5)])
def test_gamma_gaps_keep_the_rate_and_vary_more_or_less(
    burstiness: float, variation: float
) -> None:
    found = gaps(OpenLoop(50.0, burstiness))
    assert found.mean() == pytest.approx(1 / 50, rel=0.05)
    assert found.std() / found.mean() == pytest.approx(variation, rel=0.1)


def test_conversations_of_several_requests_begin_more_seldom() -> None:
    assert gaps(OpenLoop(50.0), share=0.1).mean() == pytest.approx(1 / 5, rel=0.05)


def test_the_same_seed_gives_the_same_times() -> None:
    first, again, other = (arrival_times(OpenLoop(9.0), 1.0, 50, (n,)) for n in (3, 3, 4))
    assert first == again != other
    assert first[0] == 0


@pytest.mark.parametrize("burstiness", [0.1, 1.0])
def test_few_arrivals_have_the_rate_as_well(burstiness: float) -> None:
    for seed in range(20):
        times = arrival_times(OpenLoop(2.0, burstiness), 0.5, 5, (seed,))
        assert times[-1] == pytest.approx(4.0)
    assert arrival_times(OpenLoop(2.0), 1.0, 1, (0,)) == [0.0]
