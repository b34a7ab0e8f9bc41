"""The vision tower of Qwen3-VL: uint8 patches -> visual tokens with their DeepStack levels.

Module attributes carry the names of the published checkpoints (`visual.blocks.0.attn.qkv`).
Shapes: N patches of all items, D vision hidden size, M = N / 4 visual tokens, H LLM hidden size,
L DeepStack levels. Patches come in merge order: the four patches of a visual token are neighbours.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
from vllm.distributed import parallel_state
from vllm.distributed import utils as dist_utils
from vllm.model_executor.layers.activation import get_act_fn
from vllm.model_executor.layers.attention.mm_encoder_attention import MMEncoderAttention
from vllm.model_executor.layers.linear import (
    ColumnParallelLinear,
    QKVParallelLinear,
    RowParallelLinear,
)
from vllm.model_executor.layers.quantization import QuantizationConfig
from vllm.model_executor.layers.rotary_embedding.common import ApplyRotaryEmb
from vllm.model_executor.model_loader.weight_utils import default_weight_loader
from vllm.model_executor.models.vision import (
    get_fp8_padded_hidden_size,
    get_vit_attn_backend,
    run_dp_sharded_mrope_vision_model,
)

Grid = tuple[int, int]  # (h, w) in patches

_LAYER_NORM_EPS = 1e-6  # fixed in the reference, not in the configuration
_PIXEL_CENTER = 128  # uint8 - 128 is exact in bfloat16 and keeps the folded bias small


class VisionPatchEmbed(nn.Module):
    """Linear projection of uint8 patches, with the preprocessing folded into the weights.

    The reference computes conv((x / 255 - mean) / std). With x' = x - 128 that is W' x' + b' where
    W' = W / (255 std) and b' = b + sum(W (128 / 255 - mean) / std). An image repeats its only
    frame, so its kernel is the sum over the frames. Folded in float64, kept in the model dtype.
    """

    def __init__(
        self,
        config: Qwen3VLVisionConfig,
        image_mean: Sequence[float],
        image_std: Sequence[float],
    ) -> None:
        super().__init__()
        self.kernel = (config.temporal_patch_size, config.patch_size, config.patch_size)
        self.in_channels = config.in_channels
        self.frame_size = config.in_channels * config.patch_size**2
        self.image_mean, self.image_std = image_mean, image_std
        self._raw: dict[str, torch.Tensor] = {}
        video_size = self.frame_size * config.temporal_patch_size
        self.image_weight = nn.Parameter(
            torch.empty(config.hidden_size, self.frame_size), requires_grad=False
        )
        self.video_weight = nn.Parameter(
            torch.empty(config.hidden_size, video_size), requires_grad=False
        )
        self.bias = nn.Parameter(torch.empty(config.hidden_size), requires_grad=False)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """(N, 768 or 1536) uint8 -> (N, D) in the model dtype."""
        is_image = patches.shape[-1] == self.frame_size
        weight = self.image_weight if is_image else self.video_weight
        return nn.functional.linear(patches.to(weight.dtype) - _PIXEL_CENTER, weight, self.bias)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Fold `proj.weight` (D, 3, 2, 16, 16) and `proj.bias` (D) into the parameters."""
        # The two may lie in different files of a checkpoint, and come in two calls then.
        self._raw |= dict(weights)
        unknown = set(self._raw) - {"proj.weight", "proj.bias"}
        if unknown:
            raise ValueError(f"unknown tensors in visual.patch_embed: {sorted(unknown)}")
        dtype = self._raw.get("proj.weight", self.bias).dtype
        if not dtype.is_floating_point or dtype.itemsize == 1:
            raise ValueError(f"visual.patch_embed.proj is quantised ({dtype}): it cannot be folded")
        if len(self._raw) < 2:
            return set()
        tensors, self._raw = self._raw, {}
        weight = tensors["proj.weight"].double()
        device = weight.device
        mean = torch.tensor(self.image_mean, dtype=torch.float64, device=device)
        std = torch.tensor(self.image_std, dtype=torch.float64, device=device)
        channel = (1, self.in_channels, 1, 1, 1)
        shift = ((_PIXEL_CENTER / 255 - mean) / std).view(channel)
        bias = tensors["proj.bias"].double() + (weight * shift).sum(dim=(1, 2, 3, 4))
        scaled = weight / (255 * std).view(channel)
        by_frame = scaled.permute(0, 2, 3, 4, 1).flatten(2)  # (D, frames, rows * columns * RGB)
        _load(self.video_weight, by_frame.flatten(1))
        _load(self.image_weight, by_frame.sum(dim=1))
        _load(self.bias, bias)
        return {"image_weight", "video_weight", "bias"}


def _load(parameter: nn.Parameter, values: torch.Tensor) -> None:
    """By the parameter's own loader if it has one: vLLM gives it one to load weights again."""
    load = getattr(parameter, "weight_loader", default_weight_loader)
    load(parameter, values.to(parameter.dtype))


@dataclass(frozen=True, slots=True)
class LayerOptions:
    """What all layers of a tower have in common.

    Attributes:
        is_replicated: every tensor-parallel rank has all weights (vLLM's `mm_encoder_tp_mode` is
            `data`) instead of its share.
    """

    quant_config: QuantizationConfig | None
    is_replicated: bool

    @property
    def tp_size(self) -> int:
        """Ranks that share a layer."""
        if self.is_replicated:
            return 1
        return _num_ranks()


def _num_ranks() -> int:
    size: int = parallel_state.get_tensor_model_parallel_world_size()
    return size


def _parallel_linear(
    linear_class: type[nn.Module],
    input_size: int,
    output_size: int,
    layers: "LayerOptions",
    prefix: str,
) -> nn.Module:
    """One of vLLM's tensor-parallel linears, with what all of the tower have in common."""
    return linear_class(
        input_size,
        output_size,
        bias=True,
        quant_config=layers.quant_config,
        return_bias=False,
        prefix=prefix,
        disable_tp=layers.is_replicated,
    )


class VisionMLP(nn.Module):
    def __init__(self, config: Qwen3VLVisionConfig, layers: LayerOptions, prefix: str) -> None:
        super().__init__()
        self.linear_fc1 = _parallel_linear(
            ColumnParallelLinear,
            config.hidden_size,
            config.intermediate_size,
            layers,
            prefix=f"{prefix}.linear_fc1",
        )
        self.linear_fc2 = _parallel_linear(
            RowParallelLinear,
            config.intermediate_size,
            config.hidden_size,
            layers,
            prefix=f"{prefix}.linear_fc2",
        )
        self.act_fn = get_act_fn(config.hidden_act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear_fc2(self.act_fn(self.linear_fc1(x)))


class VisionAttention(nn.Module):
    """Full attention within each grid (an image, or one temporal patch of a video)."""

    def __init__(self, config: Qwen3VLVisionConfig, layers: LayerOptions, prefix: str) -> None:
        super().__init__()
        self.head_dim = dist_utils.divide(config.hidden_size, config.num_heads)
        self.num_heads = dist_utils.divide(config.num_heads, layers.tp_size)
        self.qkv = QKVParallelLinear(
            hidden_size=config.hidden_size,
            head_size=self.head_dim,
            total_num_heads=config.num_heads,
            total_num_kv_heads=config.num_heads,
            bias=True,
            quant_config=layers.quant_config,
            return_bias=False,
            prefix=f"{prefix}.qkv",
            disable_tp=layers.is_replicated,
        )
        self.proj = _parallel_linear(
            RowParallelLinear,
            config.hidden_size,
            config.hidden_size,
            layers,
            prefix=f"{prefix}.proj",
        )
        self.attn = MMEncoderAttention(
            num_heads=self.num_heads,
            head_size=self.head_dim,
            scale=self.head_dim**-0.5,
            prefix=f"{prefix}.attn",
        )
        self.apply_rotary_emb = ApplyRotaryEmb(enforce_enable=True, enable_fp32_compute=True)

    def forward(self, x: torch.Tensor, metadata: "AttentionMetadata") -> torch.Tensor:
        """(N, D) -> (N, D)."""
        num_patches = x.shape[0]
        qkv = self.qkv(x).view(num_patches, 3, self.num_heads, self.head_dim)
        # q and k as a batch of two, so that one rotation serves both.
        qk = qkv[:, :2].transpose(0, 1).contiguous()
        q, k = self.apply_rotary_emb(qk, metadata.cos, metadata.sin).unbind(0)
        out = self.attn(
            query=q.unsqueeze(0),
            key=k.unsqueeze(0),
            value=qkv[:, 2].unsqueeze(0),
            cu_seqlens=metadata.cu_seqlens,
            max_seqlen=metadata.max_seqlen,
            sequence_lengths=metadata.sequence_lengths,
        )
        return self.proj(out.reshape(num_patches, -1))


class VisionBlock(nn.Module):
    def __init__(self, config: Qwen3VLVisionConfig, layers: LayerOptions, prefix: str) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=_LAYER_NORM_EPS)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=_LAYER_NORM_EPS)
        self.attn = VisionAttention(config, layers, prefix=f"{prefix}.attn")
        self.mlp = VisionMLP(config, layers, prefix=f"{prefix}.mlp")

    def forward(self, x: torch.Tensor, metadata: "AttentionMetadata") -> torch.Tensor:
        x = x + self.attn(self.norm1(x), metadata)
        return x + self.mlp(self.norm2(x))


class VisionPatchMerger(nn.Module):
    """Four neighbouring patches -> one visual token: (N, D) -> (M, H).

    DeepStack mergers normalise after the four are joined (`use_postshuffle_norm`), the main one
    before.
    """

    def __init__(
        self,
        config: Qwen3VLVisionConfig,
        layers: LayerOptions,
        prefix: str,
        use_postshuffle_norm: bool,
    ) -> None:
        super().__init__()
        self.use_postshuffle_norm = use_postshuffle_norm
        self.merged_size = config.hidden_size * config.spatial_merge_size**2
        norm_size = self.merged_size if use_postshuffle_norm else config.hidden_size
        self.norm = nn.LayerNorm(norm_size, eps=_LAYER_NORM_EPS)
        self.linear_fc1 = _parallel_linear(
            ColumnParallelLinear,
            self.merged_size,
            self.merged_size,
            layers,
            prefix=f"{prefix}.linear_fc1",
        )
        self.act_fn = nn.GELU()
        self.linear_fc2 = _parallel_linear(
            RowParallelLinear,
            self.merged_size,
            config.out_hidden_size,
            layers,
            prefix=f"{prefix}.linear_fc2",
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.use_postshuffle_norm:
            x = self.norm(x.view(-1, self.merged_size))
        else:
            x = self.norm(x).view(-1, self.merged_size)
        return self.linear_fc2(self.act_fn(self.linear_fc1(x)))


@dataclass(frozen=True, slots=True)
class AttentionMetadata:
    """What every block needs about the grids of a batch, built once per batch.

    `cos`, `sin`: (N, head_dim / 2) float32. The rest is in the form of vLLM's attention back-end.
    """

    cos: torch.Tensor
    sin: torch.Tensor
    cu_seqlens: Any
    max_seqlen: torch.Tensor
    sequence_lengths: torch.Tensor | None


class VisionTransformer(nn.Module):
    """uint8 patches of a batch of grids -> (M, H * (1 + L)): main features, DeepStack levels."""

    def __init__(
        self,
        config: Qwen3VLVisionConfig,
        image_mean: Sequence[float],
        image_std: Sequence[float],
        layers: LayerOptions,
        prefix: str = "",
    ) -> None:
        super().__init__()
        self.config = config
        self.spreads_items = layers.is_replicated and _num_ranks() > 1
        self.head_dim = config.hidden_size // config.num_heads
        self.rope_theta = config.rope_parameters["rope_theta"]
        self.deepstack_visual_indexes = list(config.deepstack_visual_indexes)
        self.spatial_merge_size = config.spatial_merge_size
        self.out_hidden_size = config.out_hidden_size * (1 + len(self.deepstack_visual_indexes))
        self.tp_size = layers.tp_size
        self.attn_backend = get_vit_attn_backend(
            head_size=self.head_dim, dtype=torch.get_default_dtype()
        )
        # asked here: while requests are served, vLLM has no current configuration
        self.fp8_padded_hidden_size = get_fp8_padded_hidden_size(config.num_heads, self.head_dim)
        self.patch_embed = VisionPatchEmbed(config, image_mean, image_std)
        self.pos_embed = nn.Embedding(config.num_position_embeddings, config.hidden_size)
        self.blocks = nn.ModuleList(
            VisionBlock(config, layers, prefix=f"{prefix}.blocks.{i}") for i in range(config.depth)
        )
        self.merger = VisionPatchMerger(
            config, layers, prefix=f"{prefix}.merger", use_postshuffle_norm=False
        )
        self.deepstack_merger_list = nn.ModuleList(
            VisionPatchMerger(
                config,
                layers,
                prefix=f"{prefix}.deepstack_merger_list.{i}",
                use_postshuffle_norm=True,
            )
            for i in range(len(self.deepstack_visual_indexes))
        )

    @property
    def device(self) -> torch.device:
        return self.pos_embed.weight.device

    def encode(self, patches: torch.Tensor, grids: Sequence[Grid]) -> torch.Tensor:
        """As `forward`. Ranks that have all weights each take some items and exchange the results.

        All ranks must call it, with the same items. The result has a storage of its own.
        """
        if not self.spreads_items:
            encoded: torch.Tensor = self(patches, grids)
            return encoded
        patches = patches.to(self.device, non_blocking=True)
        return torch.cat(
            run_dp_sharded_mrope_vision_model(self, patches, list(grids), rope_type="rope_3d")
        )

    def forward(self, patches: torch.Tensor, grids: Sequence[Grid]) -> torch.Tensor:
        """Args: patches (N, 768 or 1536) uint8, all of one kind; grids (h, w), one per item."""
        return self.encode_embedded(self.embed(patches, grids), self.attention_metadata(grids))

    def embed(self, patches: torch.Tensor, grids: Sequence[Grid]) -> torch.Tensor:
        """What the first block takes, (N, D): patches with their positions."""
        x = self.patch_embed(patches.to(self.device, non_blocking=True))
        return x + torch.cat([self._position_embeddings(grid) for grid in grids])

    def encode_embedded(self, x: torch.Tensor, metadata: AttentionMetadata) -> torch.Tensor:
        """The part of `forward` that a graph can hold: nothing in it depends on the grids' sizes.

        Rows of `x` that belong to no grid come out as rows without meaning, and touch no others.
        """
        levels = []
        for index, block in enumerate(self.blocks):
            x = block(x, metadata)
            if index in self.deepstack_visual_indexes:
                level = self.deepstack_visual_indexes.index(index)
                levels.append(self.deepstack_merger_list[level](x))
        return torch.cat([self.merger(x), *levels], dim=-1)

    def _position_embeddings(self, grid: Grid) -> torch.Tensor:
        """The learned square grid, resampled to (h * w, D) in merge order."""
        indices, weights = _interpolation(
            grid, int(self.config.num_position_embeddings**0.5), self.config.spatial_merge_size
        )
        table = self.pos_embed.weight
        indices, weights = indices.to(table.device), weights.to(table.device, table.dtype)
        # one corner after the other: all at once take four times the memory
        embeddings = table[indices[:, 0]] * weights[:, :1]
        for corner in range(1, 4):
            embeddings += table[indices[:, corner]] * weights[:, corner, None]
        return embeddings

    def attention_metadata(
        self, grids: Sequence[Grid], num_sequences: int = 0
    ) -> AttentionMetadata:
        """What attention needs of the grids. Args: num_sequences: empty ones fill it up to that."""
        merge = self.config.spatial_merge_size
        positions = torch.cat([_patch_positions(grid, merge) for grid in grids])
        angles = _rotary_angles(positions, self.head_dim, self.rope_theta)
        lengths = np.zeros(max(num_sequences, len(grids)), dtype=np.int32)
        lengths[: len(grids)] = [h * w for h, w in grids]
        cu_seqlens = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
        backend = self.attn_backend
        return AttentionMetadata(
            cos=angles.cos().to(self.device),
            sin=angles.sin().to(self.device),
            cu_seqlens=MMEncoderAttention.maybe_recompute_cu_seqlens(
                backend,
                cu_seqlens,
                self.config.hidden_size,
                self.tp_size,
                self.device,
                fp8_padded_hidden_size=self.fp8_padded_hidden_size,
            ),
            # stays on the CPU: the attention wrappers call .item() on it
            max_seqlen=torch.tensor(
                MMEncoderAttention.compute_max_seqlen(backend, cu_seqlens), dtype=torch.int32
            ),
            sequence_lengths=MMEncoderAttention.maybe_compute_seq_lens(
                backend, cu_seqlens, self.device
            ),
        )


def _merge_order(plane: torch.Tensor, merge: int) -> torch.Tensor:
    """(h, w, ...) -> (h * w, ...) with the patches of one visual token side by side."""
    h, w = plane.shape[:2]
    blocks = plane.reshape(h // merge, merge, w // merge, merge, *plane.shape[2:])
    return blocks.transpose(1, 2).reshape(h * w, *plane.shape[2:])


@lru_cache(maxsize=64)  # 64 bytes a patch in both caches together
def _patch_positions(grid: Grid, merge: int) -> torch.Tensor:
    """(h * w, 2) int64: row and column of every patch, in merge order."""
    h, w = grid
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    return _merge_order(torch.stack([rows, columns], dim=-1), merge)


def _rotary_angles(positions: torch.Tensor, head_dim: int, theta: float) -> torch.Tensor:
    """(N, 2) -> (N, head_dim / 2) float32: the first half turns with the row, then the column."""
    half = head_dim // 2
    inv_freq = 1.0 / (theta ** (torch.arange(0, half, 2, dtype=torch.float32) / half))
    return (positions.unsqueeze(-1).float() * inv_freq).flatten(1)


@lru_cache(maxsize=64)  # 64 bytes a patch in both caches together
def _interpolation(grid: Grid, side: int, merge: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Bilinear resampling of a side x side table, corners aligned.

    Returns: (h * w, 4) int64 table rows and (h * w, 4) float32 weights, in merge order.
    """
    rows, columns = (torch.linspace(0, side - 1, size, dtype=torch.float32) for size in grid)
    row0, column0 = rows.long(), columns.long()
    row1, column1 = (row0 + 1).clamp(max=side - 1), (column0 + 1).clamp(max=side - 1)
    dr, dc = (rows - row0)[:, None], (columns - column0)[None, :]
    corners = [(row0, column0), (row0, column1), (row1, column0), (row1, column1)]
    indices = torch.stack([r[:, None] * side + c[None, :] for r, c in corners], dim=-1)
    weights = torch.stack([(1 - dr) * (1 - dc), (1 - dr) * dc, dr * (1 - dc), dr * dc], dim=-1)
    return _merge_order(indices, merge), _merge_order(weights, merge)
