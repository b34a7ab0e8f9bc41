"""When requests are due."""

from itertools import islice

import numpy as np
import pytest

from benchmarks.load.arrivals import OpenLoop, arrival_times


def gaps(load: OpenLoop, share: float = 1.0) -> np.ndarray:  # type: ignore[type-arg]
    return np.diff(list(islice(arrival_times(load, share, (1, 2)), 20001)))


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
    first, again = (list(islice(arrival_times(OpenLoop(9.0), 1.0, (3,)), 50)) for _ in range(2))
    assert first == again
    assert first[0] == 0
    assert first != list(islice(arrival_times(OpenLoop(9.0), 1.0, (4,)), 50))
