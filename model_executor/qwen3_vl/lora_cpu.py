"""LoRA's matrix products on a CPU.

vLLM 0.32's own give a row without adapter that of the last slot if another row of the step has
one, and copy an adapter's weights once for every row: a page of 4,096 patches would take gigabytes.
Here each run of rows of one adapter is two products, and rows without adapter are left alone.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import linear
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

Runs = Sequence[tuple[int, slice]]  # slot, rows


class RowRunsWrapper(PunicaWrapperCPU):
    """Adapters by runs of rows. Stacked weights are (slots, 1, out, in), A's and B's alike."""

    _token_runs: Runs = ()
    _sampler_runs: Runs = ()

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        super().update_metadata(*args, **kwargs)
        self._token_runs = _runs(self.token_lora_indices)
        self._sampler_runs = _runs(self.sampler_indices)

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **others: Any,
    ) -> None:
        """y (rows, sum of slices) += x (rows, in) A^T B^T, slice by slice, in place."""
        y, x = y.view(-1, y.shape[-1]), x.reshape(-1, x.shape[-1])
        for slot, rows in self._token_runs:
            start = 0
            for a, b, size in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
                change = linear(linear(x[rows], a[slot, 0]), b[slot, 0])
                y[rows, start : start + size] += change * scale
                start += size

    def add_lora_embedding(
        self, y: torch.Tensor, x: torch.Tensor, lora_b_stacked: torch.Tensor, **others: Any
    ) -> None:
        """y (rows, hidden) += x (rows, rank) B^T; x has been looked up in A already."""
        for slot, rows in self._token_runs:
            y[rows] += linear(x[rows], lora_b_stacked[slot, 0])

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        **others: Any,
    ) -> None:
        """y (requests, padded vocabulary) += x (requests, hidden) A^T B^T."""
        size = min(y.shape[-1], lora_b_stacked.shape[-2])
        for slot, rows in self._sampler_runs:
            change = linear(
                linear(x[rows], lora_a_stacked[slot, 0]), lora_b_stacked[slot, 0, :size]
            )
            y[rows, :size] += change * scale


def _runs(slots: torch.Tensor) -> Runs:
    """Consecutive rows of one slot; rows without (-1) are left out."""
    found, counts = torch.unique_consecutive(slots, return_counts=True)
    runs, start = [], 0
    for slot, count in zip(found.tolist(), counts.tolist(), strict=True):
        if slot >= 0:
            runs.append((slot, slice(start, start + count)))
        start += count
    return runs


def use_row_runs(manager: Any) -> None:
    """Give the wrappers that vLLM's LoRAModelManager has made our products."""
    for wrapper in set(manager.punica_wrapper_mapping.values()):
        assert type(wrapper) is PunicaWrapperCPU
        wrapper.__class__ = RowRunsWrapper
