"""The language half: vLLM's Qwen3 and Qwen3-MoE, DeepStack levels added after the first layers."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import nn
from vllm.compilation.decorators import support_torch_compile
from vllm.config import VllmConfig, get_current_vllm_config, set_current_vllm_config
from vllm.distributed import get_pp_group
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.models.qwen3 import Qwen3DecoderLayer, Qwen3ForCausalLM, Qwen3Model
from vllm.model_executor.models.qwen3_moe import (
    Qwen3MoeDecoderLayer,
    Qwen3MoeForCausalLM,
    Qwen3MoeModel,
    Qwen3MoeSparseMoeBlock,
)
from vllm.model_executor.models.utils import PPMissingLayer, maybe_prefix
from vllm.platforms import current_platform
from vllm.sequence import IntermediateTensors

from model_executor.qwen3_vl.cpu_collectives import add_cpu_collectives
from model_executor.qwen3_vl.experts import localize

# Positions stay below the number of tokens: no head-room beyond the context.
_MROPE_POSITIONS_FACTOR = 1
_DYNAMIC_ARG_DIMS = {
    "input_ids": 0,
    "positions": -1,  # (3, num_tokens)
    "intermediate_tensors": 0,
    "inputs_embeds": 0,
    "deepstack_embeds": 0,
}


class DeepstackForward:
    """The forward pass of both backbones; mixed into vLLM's Qwen3 and Qwen3-MoE models.

    The auxiliary hidden states, for EAGLE3's drafter, are the inputs of the layers that
    `aux_hidden_state_layers` names, DeepStack included; a pipeline stage hands on its own.
    """

    supports_aux_hidden_states_over_pp: ClassVar[bool] = True
    # from the vLLM models
    layers: Any
    start_layer: int
    end_layer: int
    norm: Any
    embed_input_ids: Any
    _maybe_add_hidden_state: Any
    collect_remote_aux_hidden_states: Any
    pack_local_aux_hidden_states: Any

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: torch.Tensor | None = None,
        deepstack_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor | IntermediateTensors | tuple[torch.Tensor, list[torch.Tensor]]:
        """Args: positions (3, num_tokens); deepstack_embeds (num_tokens, levels, hidden)."""
        if get_pp_group().is_first_rank:
            hidden_states = (
                inputs_embeds if inputs_embeds is not None else self.embed_input_ids(input_ids)
            )
            residual = None
        else:
            assert intermediate_tensors is not None
            hidden_states = intermediate_tensors["hidden_states"]
            residual = intermediate_tensors["residual"]
        num_levels = 0 if deepstack_embeds is None else deepstack_embeds.shape[1]
        aux_hidden_states = self.collect_remote_aux_hidden_states(intermediate_tensors)
        num_remote = len(aux_hidden_states)
        if get_pp_group().is_first_rank:  # the input of a later stage is the output of another
            self._maybe_add_hidden_state(aux_hidden_states, 0, hidden_states, residual)
        layers = islice(enumerate(self.layers), self.start_layer, self.end_layer)
        for index, layer in layers:
            hidden_states, residual = layer(positions, hidden_states, residual)
            if deepstack_embeds is not None and index < num_levels:
                hidden_states = hidden_states + deepstack_embeds[:, index]
            self._maybe_add_hidden_state(aux_hidden_states, index + 1, hidden_states, residual)
        if not get_pp_group().is_last_rank:
            states = {"hidden_states": hidden_states, "residual": residual}
            local = self.pack_local_aux_hidden_states(aux_hidden_states[num_remote:])
            return IntermediateTensors(states | local)
        hidden_states, _ = self.norm(hidden_states, residual)
        return (hidden_states, aux_hidden_states) if aux_hidden_states else hidden_states


def extend_rotary_table(rotary: Any, num_positions: int) -> None:
    """Make vLLM's table of cosines and sines reach `num_positions`, frequencies unchanged.

    With YaRN the table covers the original context times the factor; published advice runs
    262,144 * 3 to 1,000,000 tokens, which is more. vLLM's own `mrope_positions_factor` would do,
    but YaRN's frequencies are then computed for the enlarged context.
    """
    table = rotary.cos_sin_cache
    if table.shape[0] >= num_positions:
        return
    inv_freq = rotary._compute_inv_freq(rotary.scaling_factor or rotary.base)
    positions = torch.arange(num_positions, dtype=torch.float32, device=inv_freq.device)
    angles = torch.outer(positions, inv_freq)
    extended = torch.cat([angles.cos(), angles.sin()], dim=-1) * rotary.mscale
    rotary.register_buffer("cos_sin_cache", extended.to(table.dtype), persistent=False)


class DenseDecoderLayer(Qwen3DecoderLayer):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, mrope_positions_factor=_MROPE_POSITIONS_FACTOR)


@support_torch_compile(dynamic_arg_dims=_DYNAMIC_ARG_DIMS)
class DenseBackbone(DeepstackForward, Qwen3Model):
    decoder_layer_type = DenseDecoderLayer


@contextmanager
def _without_lora() -> Iterator[None]:
    """Layers built here are not told of adapters.

    vLLM would run all experts with the kernel that has them, which is Triton's, on a CPU too.
    """
    config = copy(get_current_vllm_config())
    config.lora_config = None
    with set_current_vllm_config(config):
        yield


class MoeDecoderLayer(Qwen3MoeDecoderLayer):
    def __init__(self, vllm_config: VllmConfig, prefix: str = "") -> None:
        with _without_lora():
            super().__init__(
                vllm_config=vllm_config,
                prefix=prefix,
                is_fused_checkpoint_transposed=True,  # the hub's (E, H, 2I) and (E, I, H)
                mrope_positions_factor=_MROPE_POSITIONS_FACTOR,
            )
        if current_platform.is_cpu() and isinstance(self.mlp, Qwen3MoeSparseMoeBlock):
            localize(self.mlp.experts.routed_experts)


@support_torch_compile(dynamic_arg_dims=_DYNAMIC_ARG_DIMS)
class MoeBackbone(DeepstackForward, Qwen3MoeModel):
    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        if current_platform.is_cpu():
            add_cpu_collectives()
        super().__init__(vllm_config=vllm_config, prefix=prefix, decoder_layer_type=MoeDecoderLayer)


class DenseLanguageModel(Qwen3ForCausalLM):
    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        nn.Module.__init__(self)
        _init_language_model(self, DenseBackbone, vllm_config, prefix)


class MoeLanguageModel(Qwen3MoeForCausalLM):
    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        nn.Module.__init__(self)
        _init_language_model(self, MoeBackbone, vllm_config, prefix)


def _init_language_model(
    module: Any, backbone: type[nn.Module], vllm_config: VllmConfig, prefix: str
) -> None:
    """What both parents' constructors do, with our backbone instead of theirs."""
    config = vllm_config.model_config.hf_config
    module.config = config
    module.vllm_config = vllm_config
    module.quant_config = vllm_config.quant_config
    module.model = backbone(vllm_config=vllm_config, prefix=maybe_prefix(prefix, "model"))
    for layer in module.model.layers[module.model.start_layer : module.model.end_layer]:
        extend_rotary_table(layer.self_attn.rotary_emb, vllm_config.model_config.max_model_len)
    if get_pp_group().is_last_rank:
        module.lm_head = ParallelLMHead(
            config.vocab_size,
            config.hidden_size,
            quant_config=vllm_config.quant_config,
            prefix="lm_head",  # as in the checkpoints, where ignore lists look for it
        )
        if config.tie_word_embeddings:
            module.lm_head = module.lm_head.tie_weights(module.model.embed_tokens)
    else:
        module.lm_head = PPMissingLayer()
    module.logits_processor = LogitsProcessor(config.vocab_size)
    module.make_empty_intermediate_tensors = module.model.make_empty_intermediate_tensors
