"""Expert parallelism on a CPU, where vLLM's kernels do not know of it."""

from typing import Any

import torch
from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts


class LocalExperts:
    """The experts of one rank; mixed into one of vLLM's classes of experts.

    vLLM's CPU kernels take the numbers of experts for places in this rank's weights, and read
    behind them. Here the numbers become places; an expert of another rank becomes the first one
    with weight 0, since the rank that has it adds its part.
    """

    def apply(
        self,
        *,
        topk_weights: torch.Tensor,
        topk_ids: torch.Tensor,
        expert_map: torch.Tensor | None,
        **others: Any,
    ) -> Any:
        """Args:
        topk_weights, topk_ids: (num_tokens, experts per token), of the tokens of all ranks.
        expert_map: (num_experts,), places of experts here; -1 for those of other ranks.
        """
        if expert_map is not None:
            places = expert_map[topk_ids]
            topk_weights = topk_weights.masked_fill(places < 0, 0)
            topk_ids = places.clamp(min=0).to(topk_ids.dtype)
        kernel: Any = super()
        return kernel.apply(topk_weights=topk_weights, topk_ids=topk_ids, expert_map=None, **others)


def localize(experts: RoutedExperts) -> None:
    """Let a layer's kernel, which vLLM makes when the weights are loaded, be one of `LocalExperts`.

    vLLM's MoE block hands no class of experts on to the layer that it builds.
    """
    method = experts.quant_method
    kernel = getattr(method, "experts_cls", None)
    if kernel is None:  # this device has none for the quantisation, which is said later
        return
    method.experts_cls = type(f"Local{kernel.__name__}", (LocalExperts, kernel), {})
