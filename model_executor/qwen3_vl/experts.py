"""Expert parallelism on a CPU, where vLLM's kernel does not know of it."""

from typing import Any

import torch
from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts


class LocalExperts(RoutedExperts):
    """The experts of one rank.

    vLLM's CPU kernel takes the numbers of experts for places in this rank's weights, and reads
    behind them. Here the numbers become places; an expert of another rank becomes the first one
    with weight 0, since the rank that has it adds its part.
    """

    def forward_modular(
        self, x: torch.Tensor, topk_weights: torch.Tensor, topk_ids: torch.Tensor, **others: Any
    ) -> Any:
        """Args: x (num_tokens, hidden); topk_weights, topk_ids (num_tokens, experts per token)."""
        if self.expert_map is not None:
            places = self.expert_map[topk_ids]  # -1 for those of other ranks
            topk_weights = topk_weights.masked_fill(places < 0, 0)
            topk_ids = places.clamp(min=0).to(topk_ids.dtype)
        return super().forward_modular(x, topk_weights, topk_ids, **others)
