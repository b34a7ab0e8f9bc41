"""An order that depends on a seed, repeated in another order when it has ended."""

import random
from collections.abc import Sequence
from functools import lru_cache


def shuffled_position(seed: int, number: int, count: int) -> int:
    """Which of `count` things comes as number `number`; each comes once before any comes again."""
    pass_number, position = divmod(number, count)
    return _order(seed, pass_number, count)[position]


@lru_cache(maxsize=4)
def _order(seed: int, pass_number: int, count: int) -> Sequence[int]:
    order = list(range(count))
    random.Random(f"{seed}/pass/{pass_number}").shuffle(order)
    return order
