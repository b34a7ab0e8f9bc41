"""Bytes of weights on one device: each tensor of the hub layout, cut as vLLM cuts it."""

import re
from dataclasses import dataclass
from math import prod

from model_executor.hub_layout import Shape, hub_tensors
from model_executor.sizing.model_shape import ModelShape
from model_executor.sizing.parallel_layout import (
    ParallelLayout,
    padded_vocab_size,
    stage_layers,
)

_LAYER = re.compile(r"model\.language_model\.layers\.(\d+)\.")
_SPLIT_BY_ROWS = re.compile(r"\.(q_proj|gate_proj|up_proj|qkv|linear_fc1)\.(weight|bias)$")
_SPLIT_BY_COLUMNS = re.compile(r"\.(o_proj|down_proj|proj|linear_fc2)\.weight$")
_KEY_VALUE = re.compile(r"\.[kv]_proj\.weight$")
_EXPERTS = re.compile(r"\.mlp\.experts\.(gate_up_proj|down_proj)$")
_LINEAR = re.compile(r"(_proj|\.proj|\.qkv|\.linear_fc[12]|\.mlp\.gate)\.weight$")
_EMBEDDING = "model.language_model.embed_tokens.weight"
_HEAD = "lm_head.weight"
_PATCH_KERNEL = "model.visual.patch_embed.proj.weight"


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes on one device.

    Attributes:
        vision: the vision tower with its mergers.
        vocabulary: input embedding and output head, which are one if they are tied.
        layers: attention, dense MLPs, routers, norms.
        experts: of the MoE layers.
    """

    vision: int = 0
    vocabulary: int = 0
    layers: int = 0
    experts: int = 0

    @property
    def total(self) -> int:
        return self.vision + self.vocabulary + self.layers + self.experts


def num_parameters(model: ModelShape) -> int:
    """Of the checkpoint: the sum of its tensors' sizes."""
    return sum(prod(shape) for shape in hub_tensors(model).values())


def stage_weights(model: ModelShape, layout: ParallelLayout, stage: int = 0) -> Weights:
    """Weights of a device of a pipeline stage, rank 0 of its tensor-parallel group.

    The sum over the hub layout's tensors of their local shape's bytes. The first stage has the
    embedding, the last one the final norm and the head (a tied head is one more copy of the
    embedding if the first stage is another), every stage the whole vision tower.
    """
    layers = stage_layers(model.text_config.num_hidden_layers, layout.pipeline_parallel_size)
    sums = dict.fromkeys(("vision", "vocabulary", "layers", "experts"), 0)
    for name, shape in hub_tensors(model).items():
        if _is_on_stage(model, name, layers, stage):
            local = local_shape(model, layout, name, shape)
            sums[_group(name)] += _num_bytes(model, name, local)
    return Weights(**sums)


def packed_bytes(model: ModelShape, layout: ParallelLayout, stage: int = 0) -> int:
    """On a CPU: vLLM packs linear layers in place, but embedding and head into copies.

    One copy of the matrix for each of the two that the stage has, even if they are tied.
    """
    text, num_stages = model.text_config, layout.pipeline_parallel_size
    is_last = stage == num_stages - 1
    has_embedding = stage == 0 or (is_last and model.tie_word_embeddings)
    rows = padded_vocab_size(text.vocab_size) // layout.tensor_parallel_size
    return (has_embedding + is_last) * rows * text.hidden_size * model.dtype_bytes


def _is_on_stage(model: ModelShape, name: str, layers: list[range], stage: int) -> bool:
    is_last = stage == len(layers) - 1
    if name == _EMBEDDING:
        return stage == 0 or (is_last and model.tie_word_embeddings)
    if name in (_HEAD, "model.language_model.norm.weight"):
        return is_last
    match = _LAYER.match(name)
    return match is None or int(match[1]) in layers[stage]


def _group(name: str) -> str:
    if name.startswith("model.visual."):
        return "vision"
    if name in (_EMBEDDING, _HEAD):
        return "vocabulary"
    return "experts" if _EXPERTS.search(name) else "layers"


def local_shape(model: ModelShape, layout: ParallelLayout, name: str, shape: Shape) -> Shape:
    """The part of a tensor that one device holds, rank 0 where shares differ.

    - Vocabulary: rows, padded to a multiple of 64 first.
    - Column-parallel layers (q, gate, up; qkv and fc1 of the tower): rows, with their biases;
      row-parallel ones (o, down; proj and fc2 of the tower): columns, their biases whole.
    - k and v: whole heads; with fewer heads than ranks each rank has one, so that heads repeat.
    - Experts: whole ones under expert parallelism, else slices of each.
    - The patch embedding: its kernel, and the kernel's sum over the frames for images.
    - Norms, routers, positions: whole.
    """
    text, tp = model.text_config, layout.tensor_parallel_size
    is_vision = name.startswith("model.visual.")
    shards = layout.vision_shards if is_vision else tp
    if name in (_EMBEDDING, _HEAD):
        return (padded_vocab_size(shape[0]) // tp, shape[1])
    if name == _PATCH_KERNEL:
        frames = shape[2]
        return (shape[0], prod(shape[1:]) + prod(shape[1:]) // frames)
    if _EXPERTS.search(name):
        return _local_experts(layout, name, shape)
    if _KEY_VALUE.search(name):
        return (max(1, text.num_key_value_heads // tp) * text.head_dim, shape[1])
    if _SPLIT_BY_ROWS.search(name):
        return (shape[0] // shards, *shape[1:])
    if _SPLIT_BY_COLUMNS.search(name):
        return (shape[0], shape[1] // shards)
    return shape


def _local_experts(layout: ParallelLayout, name: str, shape: Shape) -> Shape:
    """(experts, in, out): the first ranks get one more if the experts cannot be shared evenly."""
    shards = layout.num_expert_shards
    experts, in_size, out_size = shape
    if layout.enable_expert_parallel:
        return (-(-experts // shards), in_size, out_size)
    if name.endswith("down_proj"):
        return (experts, in_size // shards, out_size)
    return (experts, in_size, out_size // shards)


def _num_bytes(model: ModelShape, name: str, shape: Shape) -> int:
    """numel * dtype, or what the quantisation makes of a linear layer's matrix."""
    quantization = model.quantization
    if quantization is not None:
        if _EXPERTS.search(name) and quantization.covers(name):
            experts, in_size, out_size = shape
            return experts * quantization.num_bytes(out_size, in_size)
        is_linear = _LINEAR.search(name) and name != _PATCH_KERNEL
        if is_linear and quantization.covers(name.removesuffix(".weight")):
            return quantization.num_bytes(shape[0], shape[1])
    return prod(shape) * model.dtype_bytes
