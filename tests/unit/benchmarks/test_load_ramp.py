"""The search for the highest rate that keeps an SLO."""

from collections.abc import Sequence

import pytest

from benchmarks.load.ramp import Ramp


def search(first_rate: float, capacities: Sequence[float]) -> tuple[Ramp, list[float]]:
    """Servers that keep their SLO up to a rate."""
    ramp, rates = Ramp(first_rate, len(capacities)), []
    while (rate := ramp.next_rate()) is not None:
        rates.append(rate)
        ramp.add(rate, [rate <= capacity for capacity in capacities])
    return ramp, rates


@pytest.mark.parametrize("capacity", [0.3, 1.0, 7.3, 100.0])
def test_it_is_found_to_a_tenth(capacity: float) -> None:
    ramp, rates = search(1.0, [capacity])
    (found,) = ramp.highest
    assert found is not None
    assert capacity / 1.1 <= found <= capacity
    assert len(rates) < 20


def test_of_two_servers_each_has_its_own() -> None:
    ramp, _ = search(1.0, [3.0, 50.0])
    slow, fast = ramp.highest
    assert slow is not None and 3.0 / 1.1 <= slow <= 3.0
    assert fast is not None and 50.0 / 1.1 <= fast <= 50.0


def test_a_server_that_keeps_it_at_no_rate_ends_the_search() -> None:
    ramp, rates = search(1.0, [0.0])
    assert ramp.highest == [None]
    assert min(rates) >= 1 / 128
