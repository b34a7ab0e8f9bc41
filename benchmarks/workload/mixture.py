"""Several workloads in one, in fixed shares."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.workload.options import WorkloadName

# Conversations of each workload in a block: mostly text and single images, a few long ones.
MIXED: dict[WorkloadName, int] = {
    "chat": 5,
    "images": 5,
    "reuse": 5,
    "agent": 2,
    "documents": 1,
    "video": 1,
    "windows": 1,
}


@dataclass(frozen=True, slots=True)
class Mixture:
    """Blocks of conversations, each in another order but with the same shares."""

    seed: int
    shares: Mapping[WorkloadName, int]

    @property
    def block_length(self) -> int:
        return sum(self.shares.values())

    def place(self, index: int) -> tuple[WorkloadName, int]:
        """The workload of a conversation, and its number among those of this workload."""
        block, position = divmod(index, self.block_length)
        names = [name for name, share in self.shares.items() for _ in range(share)]
        random.Random(f"{self.seed}/block/{block}").shuffle(names)
        name = names[position]
        return name, block * self.shares[name] + names[:position].count(name)
