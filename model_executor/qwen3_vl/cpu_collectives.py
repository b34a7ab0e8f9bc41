"""What vLLM's collectives lack on a CPU: parts of different sizes, for data-parallel MoE."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import distributed as dist
from vllm.distributed import get_dp_group, get_ep_group
from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator


class CpuCollectives(CpuCommunicator):
    """vLLM's communicator of a CPU, with two more collectives over dimension 0."""

    def all_gatherv(
        self,
        input_: torch.Tensor | list[torch.Tensor],
        dim: int = 0,
        sizes: list[int] | None = None,
    ) -> Any:
        """Join the parts of all ranks, of one tensor or of each in a list.

        Args: sizes: rows of each rank's part; None if all have as many.
        """
        assert dim == 0
        if isinstance(input_, torch.Tensor):
            return self._join(input_, sizes)
        return [self._join(tensor, sizes) for tensor in input_]

    def reduce_scatterv(
        self, input_: torch.Tensor, dim: int = 0, sizes: list[int] | None = None
    ) -> torch.Tensor:
        """The sum over all ranks, of which each gets its part. Args: see `all_gatherv`."""
        assert dim == 0
        total = input_.contiguous().clone()
        dist.all_reduce(total, group=self.device_group)
        if sizes is None:
            return total.chunk(self.world_size)[self.rank_in_group]
        return torch.split(total, sizes)[self.rank_in_group]

    def _join(self, part: torch.Tensor, sizes: Sequence[int] | None) -> torch.Tensor:
        if sizes is None:
            sizes = [part.shape[0]] * self.world_size
        # the backend gathers tensors of one shape only
        padded = part.new_zeros((max(sizes), *part.shape[1:]))
        padded[: part.shape[0]] = part
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded, group=self.device_group)
        return torch.cat([found[:size] for found, size in zip(parts, sizes, strict=True)])


def add_cpu_collectives() -> None:
    """Give them to the groups over which vLLM spreads experts."""
    for group in (get_dp_group(), get_ep_group()):
        if isinstance(group.device_communicator, CpuCommunicator):
            group.device_communicator.__class__ = CpuCollectives
