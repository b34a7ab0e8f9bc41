"""Who gets how much of a step."""

import pytest

from server.vllm_scheduler import choose_prefills, largest_part


@pytest.mark.parametrize(
    ("remaining", "chosen"),
    [
        pytest.param([30_000], {0}, id="alone"),
        pytest.param([30_000, 30_000, 30_000], {0}, id="equal ones follow each other"),
        pytest.param([30_000, 500], {0, 1}, id="a short one beside a long one"),
        pytest.param([30_000, 9000, 20_000, 500, 700], {0, 1, 3, 4}, id="the three shortest"),
        pytest.param([500, 30_000, 30_000], {0, 1}, id="the next one takes what is left"),
        pytest.param([500, 600, 700], {0, 1, 2}, id="there is room for all"),
    ],
)
def test_the_oldest_and_shorter_ones_have_a_part(remaining: list[int], chosen: set[int]) -> None:
    assert choose_prefills(remaining, 2048) == chosen


@pytest.mark.parametrize(
    ("remaining", "part"),
    [
        pytest.param([30_000], 2048, id="alone"),
        pytest.param([30_000, 500], 1548, id="what the short one leaves"),
        pytest.param([30_000, 9000, 500], 774, id="long ones halve the rest"),
        pytest.param([500, 600], 2048, id="no bound is needed"),
    ],
)
def test_parts_add_up_to_the_step(remaining: list[int], part: int) -> None:
    assert largest_part(remaining, 2048) == part
    assert sum(min(left, part) for left in remaining) == min(2048, sum(remaining))


def test_there_is_always_a_token_for_a_prompt() -> None:
    assert largest_part([30_000, 30_000], 1) == 1
    assert largest_part([30_000], -5) == 1
