"""How a model is spread over devices, and what forbids a layout."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from model_executor.sizing.model_shape import ModelShape

VOCAB_PADDING = 64  # vLLM pads vocabularies to multiples of it


@dataclass(frozen=True, slots=True)
class ParallelLayout:
    """vLLM's parallel sizes, under its names.

    With a MoE model the data-parallel ranks share the experts out among them, whole ones
    (`enable_expert_parallel`) or slices; everything else is in each rank.
    """

    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    enable_expert_parallel: bool = False
    mm_encoder_tp_mode: Literal["weights", "data"] = "weights"

    @property
    def num_devices(self) -> int:
        return self.devices_per_replica * self.data_parallel_size

    @property
    def devices_per_replica(self) -> int:
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @property
    def num_expert_shards(self) -> int:
        """Devices among which one layer's experts are shared out."""
        return self.tensor_parallel_size * self.data_parallel_size

    @property
    def vision_shards(self) -> int:
        """Devices that share the vision tower's weights; 1 if each has all of them."""
        return 1 if self.mm_encoder_tp_mode == "data" else self.tensor_parallel_size


def stage_layers(num_layers: int, num_stages: int) -> list[range]:
    """The layers of each pipeline stage.

    Equal shares; what is left over goes one each to the stages before the last one, from the end.
    """
    counts = [num_layers // num_stages] * num_stages
    for i in range(num_layers % num_stages):
        counts[num_stages - 2 - i] += 1
    starts = [sum(counts[:stage]) for stage in range(num_stages)]
    return [range(start, start + count) for start, count in zip(starts, counts, strict=True)]


def padded_vocab_size(vocab_size: int) -> int:
    return -(-vocab_size // VOCAB_PADDING) * VOCAB_PADDING


def layout_faults(model: ModelShape, layout: ParallelLayout) -> list[str]:
    """Why vLLM would not start the model so; empty if it would."""
    return [
        *_tensor_faults(model, layout),
        *_block_faults(model, layout),
        *_stage_faults(model, layout),
    ]


def _tensor_faults(model: ModelShape, layout: ParallelLayout) -> Iterator[str]:
    text, vision = model.text_config, model.vision_config
    tp = layout.tensor_parallel_size
    if text.num_attention_heads % tp:
        yield f"{text.num_attention_heads} attention heads are no multiple of TP {tp}"
    kv_heads = text.num_key_value_heads
    if max(kv_heads, tp) % min(kv_heads, tp):
        yield f"neither of {kv_heads} key-value heads and TP {tp} is a multiple of the other"
    if padded_vocab_size(text.vocab_size) % tp:
        yield f"a vocabulary of {padded_vocab_size(text.vocab_size)} is no multiple of TP {tp}"
    for name, size in (("heads", vision.num_heads), ("intermediate", vision.intermediate_size)):
        if size % layout.vision_shards:
            yield f"the vision tower's {name} ({size}) are no multiple of TP {tp}"
    for name, size, shards in _split_sizes(model, layout):
        if size % shards:
            yield f"{name} {size} is no multiple of {shards} devices"


def _block_faults(model: ModelShape, layout: ParallelLayout) -> Iterator[str]:
    """vLLM splits no block of weights that share a scale."""
    if model.quantization is None:
        return
    unit = model.quantization.must_divide
    for name, size, shards in _split_sizes(model, layout):
        if shards > 1 and size % shards == 0 and size // shards % unit:
            yield (
                f"{name} {size} / {shards} devices = {size // shards} is no multiple of the "
                f"quantisation's block of {unit}"
            )


def _split_sizes(model: ModelShape, layout: ParallelLayout) -> Iterator[tuple[str, int, int]]:
    """(name, size, shards) of the sides of linear layers that are split."""
    text, tp = model.text_config, layout.tensor_parallel_size
    yield "attention width", text.num_attention_heads * text.head_dim, tp
    if not model.is_moe or text.mlp_only_layers:
        yield "intermediate size", text.intermediate_size, tp
    if not model.is_moe:
        return
    if not layout.enable_expert_parallel:
        yield "expert width", text.moe_intermediate_size, layout.num_expert_shards


def _stage_faults(model: ModelShape, layout: ParallelLayout) -> Iterator[str]:
    text, pp = model.text_config, layout.pipeline_parallel_size
    if pp > text.num_hidden_layers:
        yield f"{text.num_hidden_layers} layers cannot make {pp} pipeline stages"
        return
    num_levels = len(model.vision_config.deepstack_visual_indexes)
    first = stage_layers(text.num_hidden_layers, pp)[0]
    if pp > 1 and len(first) < num_levels:
        yield f"the first pipeline stage has {len(first)} layers, DeepStack feeds {num_levels}"
    if model.is_moe and layout.tensor_parallel_size > text.num_experts:
        yield f"TP {layout.tensor_parallel_size} is more than {text.num_experts} experts"
