"""Qwen3-VL, dense and MoE, under vLLM's interfaces.

Visual items are encoded, scattered among the text embeddings, and the backbone runs over both.
"""

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from vllm import envs
from vllm.config import VllmConfig
from vllm.distributed import get_pp_group
from vllm.model_executor.models.interfaces import (
    MixtureOfExperts,
    SupportsEagle,
    SupportsEagle3,
    SupportsLoRA,
    SupportsMRoPE,
    SupportsMultiModal,
    SupportsPP,
)
from vllm.model_executor.models.module_mapping import MultiModelKeys
from vllm.model_executor.models.qwen3_moe import Qwen3MoeSparseMoeBlock
from vllm.model_executor.models.utils import (
    AutoWeightsLoader,
    StageMissingLayer,
    maybe_prefix,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.platforms import current_platform
from vllm.sequence import IntermediateTensors

from model_executor.hub_layout import is_moe_layer
from model_executor.qwen3_vl.checkpoint import (
    HUB_TO_VLLM,
    checked_weights,
    split_experts,
)
from model_executor.qwen3_vl.language import DenseLanguageModel, MoeLanguageModel
from model_executor.qwen3_vl.lora import lora_targets, select_tower_adapters
from model_executor.qwen3_vl.lora_cpu import use_row_runs
from model_executor.qwen3_vl.quantisation import (
    holds_quantised_weights,
    named_quantisation,
    rename_patterns,
    require_expert_kernels,
)
from model_executor.qwen3_vl.quantised_checkpoint import load_quantised
from model_executor.qwen3_vl.vision import LayerOptions, VisionTransformer
from model_executor.qwen3_vl.vision_graph import VisionGraphs
from model_executor.weight_checksum import WeightChecksum, checksum_weights
from multimodal.load_progress import counted
from multimodal.mrope import mrope_positions
from multimodal.preprocessor_config import load_preprocessor_config
from multimodal.vision_worker import encode_clock, register_encoder
from multimodal.vllm_processor import (
    Qwen3VLDummyInputsBuilder,
    Qwen3VLMultiModalProcessor,
    Qwen3VLProcessingInfo,
)

_ATTENTION_PACKING = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "qkv": ["qkv"]}
_MLP_PACKING = {"gate_up_proj": ["gate_proj", "up_proj"]}
_EMBEDDING_MODULES = {"embed_tokens": "input_embeddings", "lm_head": "output_embeddings"}


class DeepstackBuffer(nn.Module):
    """DeepStack levels of the tokens of one step, kept from `embed_input_ids` to `forward`.

    vLLM hands only the main embeddings from the one call to the other. The buffer keeps its
    address, so a captured graph reads the current values. Rows at text tokens are zero. It is a
    buffer of the model because those are what vLLM brings back when it wakes up.
    """

    rows: torch.Tensor

    def __init__(self, max_tokens: int, num_levels: int, hidden_size: int) -> None:
        super().__init__()
        rows = torch.zeros(max_tokens, num_levels, hidden_size)
        self.register_buffer("rows", rows, persistent=False)
        self._num_used = 0

    def clear(self) -> None:
        self.rows[: self._num_used].zero_()
        self._num_used = 0

    def write(self, is_multimodal: torch.Tensor, levels: torch.Tensor) -> None:
        """Args: is_multimodal (num_tokens,) bool; levels (num_visual_tokens, L * hidden)."""
        self.clear()
        self._num_used = is_multimodal.shape[0]
        assert self._num_used <= self.rows.shape[0]
        mask = is_multimodal.view(-1, 1, 1)
        # masked_scatter_ needs no count of the mask, for which a GPU would have to be waited for
        self.rows[: self._num_used].masked_scatter_(mask, levels.to(self.rows.dtype))


@MULTIMODAL_REGISTRY.register_processor(
    Qwen3VLMultiModalProcessor,
    info=Qwen3VLProcessingInfo,
    dummy_inputs=Qwen3VLDummyInputsBuilder,
)
class Qwen3VLForConditionalGeneration(
    nn.Module,
    VisionGraphs,
    SupportsMultiModal,
    SupportsLoRA,
    SupportsPP,
    SupportsMRoPE,
    SupportsEagle,
    SupportsEagle3,
):
    """Dense Qwen3-VL. Source: transformers modeling_qwen3_vl.py; held by tests/parity."""

    language_model_class: ClassVar[type[nn.Module]] = DenseLanguageModel
    language_architecture: ClassVar[str] = "Qwen3ForCausalLM"
    supports_encoder_tp_data: ClassVar[bool] = True
    packed_modules_mapping: Any = _ATTENTION_PACKING | _MLP_PACKING
    hf_to_vllm_mapper = HUB_TO_VLLM
    num_redundant_experts = 0
    supports_tower_connector_lora = True
    embedding_modules: Any = _EMBEDDING_MODULES
    loaded_checksum: WeightChecksum | None = None
    visual: Any
    language_model: Any
    _mark_tower_model: Any  # from SupportsMultiModal, as the next two
    _mark_language_model: Any
    _embed_text_input_ids: Any

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        if modality not in ("image", "video"):
            raise ValueError(f"Qwen3-VL takes images and videos, not {modality}")
        return f"<|vision_start|><|{modality}_pad|><|vision_end|>"

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        self.model_config = vllm_config.model_config
        self.config = self.model_config.hf_config
        self.multimodal_config = self.model_config.get_multimodal_config()
        self.quant_config = vllm_config.quant_config
        rename_patterns(self.quant_config)
        vision = self.config.vision_config
        preprocessor = load_preprocessor_config(self.model_config.model, self.model_config.revision)
        with (
            self._mark_tower_model(vllm_config, {"image", "video"}),
            named_quantisation(self.quant_config),
        ):
            self.visual = VisionTransformer(
                vision,
                preprocessor.image_mean,
                preprocessor.image_std,
                LayerOptions(
                    vllm_config.quant_config,
                    is_replicated=self.multimodal_config.mm_encoder_tp_mode == "data",
                ),
                prefix=maybe_prefix(prefix, "visual"),
            )
        if not isinstance(self.visual, StageMissingLayer):
            register_encoder(self._encode_items)
        takes_embeddings = (
            self.model_config.supports_multimodal_inputs
            and not self.multimodal_config.mm_encoder_only
        )
        has_levels = get_pp_group().is_first_rank and takes_embeddings
        self.deepstack = DeepstackBuffer(
            vllm_config.scheduler_config.max_num_batched_tokens,
            len(vision.deepstack_visual_indexes) if has_levels else 0,
            self.config.text_config.hidden_size,
        )
        with self._mark_language_model(vllm_config), named_quantisation(self.quant_config):
            self.language_model = self.language_model_class(
                vllm_config=vllm_config.with_hf_config(
                    self.config.text_config, architectures=[self.language_architecture]
                ),
                prefix=maybe_prefix(prefix, "language_model"),
            )
            require_expert_kernels(self.language_model)
        self._check_pipeline_split(len(vision.deepstack_visual_indexes))
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors

    def _check_pipeline_split(self, num_levels: int) -> None:
        backbone = self.language_model.model
        is_first, is_last = get_pp_group().is_first_rank, get_pp_group().is_last_rank
        if is_first and not is_last and backbone.end_layer < num_levels:
            raise ValueError(
                f"the first pipeline stage holds {backbone.end_layer} layers, but DeepStack feeds "
                f"the first {num_levels}: use fewer pipeline stages"
            )

    # ---- vision

    def embed_multimodal(self, **kwargs: object) -> list[torch.Tensor]:
        """Encode the visual items of one step.

        Args: `pixel_values` with `image_grid_thw`, `pixel_values_videos` with `video_grid_thw`, as
            built by `multimodal.vllm_input`: uint8 patches of all items joined, grids (items, 3).
            `image_lora_int_id` and `video_lora_int_id` (items,) name adapters, if there are any.
        Returns: (num_tokens, hidden * (1 + levels)) per item, in item order, each of its own
            storage.
        """
        embeddings: list[torch.Tensor] = []
        for modality, patches in (("image", "pixel_values"), ("video", "pixel_values_videos")):
            if patches in kwargs:
                grid_thw: Any = kwargs[f"{modality}_grid_thw"]
                lora_int_ids: Any = kwargs.get(f"{modality}_lora_int_id")
                embeddings += self._encode(kwargs[patches], grid_thw, lora_int_ids)
        return embeddings

    def _encode(self, patches: Any, grid_thw: Any, lora_int_ids: Any) -> list[torch.Tensor]:
        return self._encode_items(
            patches,
            [(h, w) for _, h, w in grid_thw.tolist()],
            None if lora_int_ids is None else lora_int_ids.flatten().tolist(),
        )

    def _encode_items(
        self,
        patches: torch.Tensor,
        grids: Sequence[tuple[int, int]],
        lora_int_ids: Sequence[int] | None,
    ) -> list[torch.Tensor]:
        """Args: lora_int_ids: None leaves the adapters to vLLM."""
        merge_area = self.config.vision_config.spatial_merge_size**2
        num_tokens = [h * w // merge_area for h, w in grids]
        if lora_int_ids is not None:
            select_tower_adapters(self.lora_manager, lora_int_ids, num_tokens, merge_area)
        encoded = encode_clock.run(lambda: self.visual.encode(patches, grids), self.visual.device)
        items = torch.split(encoded, num_tokens)
        # A view would keep the whole batch alive for as long as one of its items is cached.
        return [item.clone() for item in items] if len(items) > 1 else list(items)

    def get_mrope_input_positions(
        self, input_tokens: list[int], mm_features: list[Any]
    ) -> tuple[torch.Tensor, int]:
        merge = self.config.vision_config.spatial_merge_size
        grids = []
        for feature in sorted(mm_features, key=lambda feature: feature.mm_position.offset):
            _, h, w = feature.data[f"{feature.modality}_grid_thw"].data.tolist()
            grids.append((feature.mm_position.offset, h // merge, w // merge))
        return mrope_positions(len(input_tokens), grids)

    # ---- language

    def embed_input_ids(
        self,
        input_ids: torch.Tensor,
        multimodal_embeddings: list[torch.Tensor] | None = None,
        *,
        is_multimodal: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(num_tokens,) ids -> (num_tokens, hidden), visual tokens in place, DeepStack kept."""
        inputs_embeds = self._embed_text_input_ids(
            input_ids, self.language_model.embed_input_ids, is_multimodal=is_multimodal
        )
        if not multimodal_embeddings:
            self.deepstack.clear()
            return inputs_embeds
        assert is_multimodal is not None
        is_multimodal = is_multimodal.to(inputs_embeds.device)
        visual = torch.cat(list(multimodal_embeddings))
        hidden_size = inputs_embeds.shape[-1]
        self.deepstack.write(is_multimodal, visual[:, hidden_size:])
        main = visual[:, :hidden_size].to(inputs_embeds.dtype)
        return inputs_embeds.masked_scatter_(is_multimodal.unsqueeze(-1), main)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: object,
    ) -> torch.Tensor | IntermediateTensors:
        deepstack_embeds = None
        if inputs_embeds is not None and get_pp_group().is_first_rank:
            deepstack_embeds = self.deepstack.rows[: inputs_embeds.shape[0]]
        hidden_states: torch.Tensor | IntermediateTensors = self.language_model.model(
            input_ids=input_ids,
            positions=positions,
            intermediate_tensors=intermediate_tensors,
            inputs_embeds=inputs_embeds,
            deepstack_embeds=deepstack_embeds,
        )
        return hidden_states

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        logits: torch.Tensor | None = self.language_model.compute_logits(hidden_states)
        return logits

    # ---- loading

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        weights = counted(weights, envs.VLLM_RPC_BASE_PATH)  # the server's folder, if it looks on
        if holds_quantised_weights(self.config, self.quant_config):
            loaded = load_quantised(self, self.config, self.quant_config, weights)
        else:
            is_vision_only = isinstance(self.language_model, StageMissingLayer)
            prefix = "model.visual." if is_vision_only else ""
            weights = checked_weights(self.config, weights, prefix)
            if self.num_redundant_experts:
                weights = split_experts(weights)
            loaded = AutoWeightsLoader(self).load_weights(weights, mapper=HUB_TO_VLLM)
        # vLLM packs a CPU's weights when they are loaded, and cannot unpack them
        if self.deepstack.rows.is_cpu and self.loaded_checksum is None:
            self.loaded_checksum = checksum_weights(self)
        return loaded

    def get_mm_mapping(self) -> MultiModelKeys:
        return MultiModelKeys.from_string_field(
            language_model="language_model",
            connector=["visual.merger", "visual.deepstack_merger_list"],
            tower_model="visual.",
        )

    # ---- LoRA

    @property
    def lora_manager(self) -> Any:
        """vLLM's LoRAModelManager, which sets itself here when it has wrapped our modules."""
        return self._lora_manager

    @lora_manager.setter
    def lora_manager(self, manager: Any) -> None:
        self._lora_manager = manager
        if current_platform.is_cpu():
            use_row_runs(manager)

    def get_mm_lora_token_counts(
        self, *, modality: str, mm_kwargs: Any, num_mm_embeds: int
    ) -> tuple[int, int]:
        """Rows that an item of so many tokens has in the tower, and in the mergers."""
        return num_mm_embeds * self.config.vision_config.spatial_merge_size**2, num_mm_embeds

    def describe_lora_targets(self) -> dict[str, tuple[int, ...]]:
        """Hub names of the modules that adapters may change, with their weights' shapes."""
        packing = self.packed_modules_mapping
        return lora_targets(self.config, packing, self.lora_manager.modules)


@MULTIMODAL_REGISTRY.register_processor(
    Qwen3VLMultiModalProcessor,
    info=Qwen3VLProcessingInfo,
    dummy_inputs=Qwen3VLDummyInputsBuilder,
)
class Qwen3VLMoeForConditionalGeneration(Qwen3VLForConditionalGeneration, MixtureOfExperts):
    """MoE Qwen3-VL: the same vision half, experts through vLLM's fused MoE."""

    is_3d_moe_weight: ClassVar[bool] = True
    language_model_class = MoeLanguageModel
    language_architecture = "Qwen3MoeForCausalLM"
    packed_modules_mapping = _ATTENTION_PACKING

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        text = vllm_config.model_config.hf_config.text_config
        if not all(is_moe_layer(text, layer) for layer in range(text.num_hidden_layers)):
            self.packed_modules_mapping = _ATTENTION_PACKING | _MLP_PACKING
            if vllm_config.quant_config is not None:  # whose ignore list tells gate from up
                vllm_config.quant_config.packed_modules_mapping = self.packed_modules_mapping
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self._set_expert_counts()

    def _moe_blocks(self) -> list[Any]:
        return [
            layer.mlp
            for layer in self.language_model.model.layers
            if isinstance(getattr(layer, "mlp", None), Qwen3MoeSparseMoeBlock)
        ]

    def _set_expert_counts(self) -> None:
        blocks = self._moe_blocks()
        if not blocks:
            raise ValueError("a Qwen3-VL MoE configuration without any MoE layer")
        self.moe_layers = [block.experts for block in blocks]
        self.num_moe_layers = len(blocks)
        self.num_expert_groups = 1
        self.num_shared_experts = 0
        self.num_logical_experts = blocks[0].n_logical_experts
        self.num_physical_experts = blocks[0].n_physical_experts
        self.num_local_physical_experts = blocks[0].n_local_physical_experts
        self.num_routed_experts = blocks[0].n_routed_experts
        self.num_redundant_experts = blocks[0].n_redundant_experts

    def update_physical_experts_metadata(
        self, num_physical_experts: int, num_local_physical_experts: int
    ) -> None:
        assert self.num_local_physical_experts == num_local_physical_experts
        self.num_physical_experts = num_physical_experts
        self.num_redundant_experts = num_physical_experts - self.num_logical_experts
        for block in self._moe_blocks():
            block.n_local_physical_experts = num_local_physical_experts
            block.n_physical_experts = num_physical_experts
            block.n_redundant_experts = self.num_redundant_experts
            block.experts.update_expert_map()
