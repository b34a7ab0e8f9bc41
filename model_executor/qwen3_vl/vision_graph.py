"""The vision tower in CUDA graphs: what vLLM's `EncoderCudaGraphManager` asks of a model.

One graph for each number of visual tokens (a budget); a batch runs in the smallest that holds it,
padded. Patches are embedded before the graph, so that images and videos, whose patches differ in
width, share graphs; everything that depends on the sizes of the grids is in the graph's inputs.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.model_executor.models.interfaces import SupportsEncoderCudaGraph
from vllm.v1.attention.backends.registry import AttentionBackendEnum
from vllm.v1.worker.encoder_cudagraph_defs import (
    EncoderCudaGraphCaptureInputs,
    EncoderCudaGraphConfig,
    EncoderCudaGraphReplayBuffers,
    EncoderItemSpec,
)

from model_executor.qwen3_vl.vision import AttentionMetadata, Grid
from multimodal.vision_worker import encode_clock

_MIN_TOKENS = 64  # of the smallest picture with the published `min_pixels`
_MODALITIES = ("image", "video")
_PATCHES = {"image": "pixel_values", "video": "pixel_values_videos"}
# The others ask the host for the lengths of sequences, which a graph cannot.
_GRAPH_BACKENDS = (
    AttentionBackendEnum.FLASH_ATTN,
    AttentionBackendEnum.TRITON_ATTN,
    AttentionBackendEnum.FLASHINFER,
)


class VisionGraphs(SupportsEncoderCudaGraph):
    """To be mixed into a model with a `VisionTransformer` in `visual`.

    `mm_kwargs` are those of `embed_multimodal`, of one modality.
    """

    visual: Any
    _timer: Any = None  # of the batch that is in a graph

    def get_encoder_cudagraph_config(self) -> EncoderCudaGraphConfig:
        """Raises: ValueError if the tower's attention cannot be captured."""
        backend = self.visual.attn_backend
        if backend not in _GRAPH_BACKENDS:
            names = ", ".join(known.name for known in _GRAPH_BACKENDS)
            raise ValueError(
                f"cudagraph_mm_encoder needs one of {names} as mm_encoder_attn_backend; "
                f"the vision tower uses {backend.name}"
            )
        return EncoderCudaGraphConfig(
            modalities=list(_MODALITIES),
            buffer_keys=["x", *AttentionMetadata.__dataclass_fields__],
            out_hidden_size=self.visual.out_hidden_size,
            max_frames_per_video=self.get_max_frames_per_video(),
        )

    def encoder_kwargs(self, patches: torch.Tensor, grids: Sequence[Grid]) -> dict[str, Any]:
        """Items of one kind as `embed_multimodal` takes them."""
        is_image = patches.shape[-1] == self.visual.patch_embed.frame_size
        modality = "image" if is_image else "video"
        grid_thw = torch.tensor([(1, *grid) for grid in grids])
        patches = patches.to(self.visual.device, non_blocking=True)
        return {_PATCHES[modality]: patches, f"{modality}_grid_thw": grid_thw}

    def get_input_modality(self, mm_kwargs: Mapping[str, Any]) -> str:
        return next(name for name in _MODALITIES if _PATCHES[name] in mm_kwargs)

    def get_max_frames_per_video(self) -> int:
        """A video item is one temporal patch, and so one sequence, as an image is."""
        return 1

    def get_encoder_cudagraph_budget_range(self, vllm_config: VllmConfig) -> tuple[int, int]:
        max_tokens = min(
            vllm_config.scheduler_config.max_num_batched_tokens,
            vllm_config.model_config.max_model_len,
        )
        return min(_MIN_TOKENS, max_tokens), max_tokens

    def get_encoder_cudagraph_item_specs(
        self, mm_kwargs: Mapping[str, Any]
    ) -> list[EncoderItemSpec]:
        merge_area = self.visual.spatial_merge_size**2
        return [
            EncoderItemSpec(input_size=h * w, output_tokens=h * w // merge_area)
            for h, w in self._grids(mm_kwargs)
        ]

    def select_encoder_cudagraph_items(
        self, mm_kwargs: Mapping[str, Any], indices: Sequence[int]
    ) -> dict[str, Any]:
        modality = self.get_input_modality(mm_kwargs)
        patches, grid_thw = mm_kwargs[_PATCHES[modality]], mm_kwargs[f"{modality}_grid_thw"]
        items = patches.split([h * w for h, w in self._grids(mm_kwargs)])
        chosen = [items[index] for index in indices]
        return {
            _PATCHES[modality]: torch.cat(chosen) if chosen else patches[:0],
            f"{modality}_grid_thw": grid_thw[list(indices)],
        }

    def prepare_encoder_cudagraph_capture_inputs(
        self,
        token_budget: int,
        max_batch_size: int,
        max_frames_per_batch: int,
        device: torch.device,
        dtype: torch.dtype,
        path: str = "default",
        axis_keys: tuple[Hashable, ...] | None = None,
    ) -> EncoderCudaGraphCaptureInputs:
        """One item that fills the budget: its length is the longest that a replay can have."""
        merge = self.visual.spatial_merge_size
        grid = (merge, token_budget * merge)
        metadata = self.visual.attention_metadata([grid], num_sequences=max_batch_size)
        x = torch.zeros(grid[0] * grid[1], self.visual.config.hidden_size)
        return EncoderCudaGraphCaptureInputs(_buffers(x.to(device, dtype), metadata))

    def prepare_encoder_cudagraph_replay_buffers(
        self,
        mm_kwargs: Mapping[str, Any],
        max_batch_size: int,
        max_frames_per_batch: int,
        path: str = "default",
    ) -> EncoderCudaGraphReplayBuffers:
        self._timer = encode_clock.start(self.visual.device)
        grids = self._grids(mm_kwargs)
        metadata = self.visual.attention_metadata(grids, num_sequences=max_batch_size)
        x = self.visual.embed(self._patches(mm_kwargs), grids)
        return EncoderCudaGraphReplayBuffers(_buffers(x, metadata))

    def encoder_cudagraph_forward(
        self, inputs: Mapping[str, Any], path: str = "default"
    ) -> torch.Tensor:
        metadata: dict[str, Any] = {
            name: inputs.get(name) for name in AttentionMetadata.__dataclass_fields__
        }
        encoded: torch.Tensor = self.visual.encode_embedded(
            inputs["x"], AttentionMetadata(**metadata)
        )
        return encoded

    def encoder_eager_forward(
        self, mm_kwargs: Mapping[str, Any], path: str = "default"
    ) -> torch.Tensor:
        """A batch that no graph holds. vLLM has spread the items over the ranks by now."""
        self._timer = encode_clock.start(self.visual.device)
        encoded: torch.Tensor = self.visual(self._patches(mm_kwargs), self._grids(mm_kwargs))
        return encoded

    def postprocess_encoder_output(
        self,
        outputs: dict[str, torch.Tensor],
        indices: list[int],
        per_item_out_tokens: list[int],
        dest: dict[int, torch.Tensor] | list[torch.Tensor | None],
        clone: bool = False,
        batch_mm_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().postprocess_encoder_output(
            outputs, indices, per_item_out_tokens, dest, clone, batch_mm_kwargs
        )
        num_rows = sum(per_item_out_tokens[index] for index in indices)
        encode_clock.stop(self._timer, num_rows * outputs["default"][0].nbytes)

    def _patches(self, mm_kwargs: Mapping[str, Any]) -> torch.Tensor:
        patches: torch.Tensor = mm_kwargs[_PATCHES[self.get_input_modality(mm_kwargs)]]
        return patches

    def _grids(self, mm_kwargs: Mapping[str, Any]) -> list[Grid]:
        grid_thw = mm_kwargs[f"{self.get_input_modality(mm_kwargs)}_grid_thw"]
        return [(h, w) for _, h, w in grid_thw.tolist()]


def _buffers(x: torch.Tensor, metadata: AttentionMetadata) -> dict[str, Any]:
    """Without what the attention back-end has no use for."""
    values = {name: getattr(metadata, name) for name in AttentionMetadata.__dataclass_fields__}
    return {"x": x} | {name: value for name, value in values.items() if value is not None}
