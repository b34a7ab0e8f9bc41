"""A range that numbers of tokens are drawn from."""

import random
from dataclasses import dataclass
from typing import Self

from benchmarks.workload.error import WorkloadError


@dataclass(frozen=True, slots=True)
class IntRange:
    """`low` to `high`, both included, every number as likely."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise WorkloadError(f"range `{self}`: 1 <= low <= high is needed")

    def __str__(self) -> str:
        return f"{self.low}-{self.high}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `64-256`, or `128` for a range of one number.

        Raises: WorkloadError.
        """
        low, dash, high = text.partition("-")
        try:
            bounds = int(low), int(high if dash else low)
        except ValueError:
            raise WorkloadError(f"range `{text}`: not of the form 64-256 or 128") from None
        return cls(*bounds)

    def draw(self, generator: random.Random) -> int:
        return generator.randint(self.low, self.high)
