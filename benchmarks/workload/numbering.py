"""Which media the conversations of a workload take, so that no two take the same by accident."""

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.workload.options import WorkloadName


@dataclass(frozen=True, slots=True)
class Numbering:
    """Numbers of images, or of videos. All numbers are taken, each by one conversation.

    Attributes:
        share: conversations of this workload in a block of the mixture.
        per_conversation: numbers that each of them takes.
        first: numbers of a block that go to workloads before this one.
        per_block: numbers that all workloads of the mixture take in a block.
    """

    share: int
    per_conversation: int
    first: int
    per_block: int

    def number(self, index: int, position: int = 0) -> int:
        """The medium at `position` of the conversation that is number `index` of its workload."""
        block, rank = divmod(index, self.share)
        return block * self.per_block + self.first + rank * self.per_conversation + position


def numberings(
    shares: Mapping[WorkloadName, int], per_conversation: Mapping[WorkloadName, int]
) -> Mapping[WorkloadName, Numbering]:
    """For the workloads of a mixture, from what a conversation of each takes."""
    per_block = sum(share * per_conversation[name] for name, share in shares.items())
    result, first = {}, 0
    for name, share in shares.items():
        result[name] = Numbering(share, per_conversation[name], first, per_block)
        first += share * per_conversation[name]
    return result
