"""One layout on one kind of device: what each device holds, and how many requests fit."""

from dataclasses import dataclass

from model_executor.sizing.activations import (
    Activations,
    buffer_bytes,
    language_bytes,
    logits_bytes,
    pixel_bytes,
    vision_bytes,
)
from model_executor.sizing.device import Device
from model_executor.sizing.kv_cache import (
    kv_bytes_per_token,
    requests_that_fit,
    tokens_that_fit,
)
from model_executor.sizing.model_shape import ModelShape
from model_executor.sizing.parallel_layout import ParallelLayout
from model_executor.sizing.vision_cache import device_tier_bytes
from model_executor.sizing.weights import Weights, packed_bytes, stage_weights


@dataclass(frozen=True, slots=True)
class EngineShape:
    """What of the engine's arguments decides memory.

    Attributes:
        max_item_tokens: of the largest image the checkpoint allows; one engine step encodes it.
        device_bytes: budget of the vision cache's device tier; None: one encoder step's.
    """

    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_item_tokens: int
    kv_cache_dtype: str = "auto"
    device_bytes: int | None = None

    @property
    def encoder_tokens(self) -> int:
        """Visual tokens that one step may encode: vLLM's budget, at least the largest item."""
        return max(self.max_num_batched_tokens, self.max_item_tokens)


@dataclass(frozen=True, slots=True)
class StageMemory:
    """Bytes on a device of one pipeline stage; `kv_cache` is what is left of its budget.

    Attributes:
        packed: copies of weights in the layout of a CPU's kernels; 0 on a GPU.
    """

    weights: Weights
    packed: int
    buffers: int
    activations: Activations
    vision_cache: int
    overhead: int
    kv_cache: int
    kv_bytes_per_token: int
    kv_tokens: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """A layout, and its fullest stage: the one whose KV cache holds the fewest tokens."""

    layout: ParallelLayout
    stage: StageMemory
    requests_per_replica: int

    @property
    def requests(self) -> int:
        """Over all replicas."""
        return self.requests_per_replica * self.layout.data_parallel_size

    @property
    def fits(self) -> bool:
        return self.requests_per_replica > 0


def estimate(
    model: ModelShape,
    layout: ParallelLayout,
    device: Device,
    engine: EngineShape,
    request_tokens: int,
) -> Estimate:
    """Args: request_tokens: of one request, answer included."""
    stages = [
        stage_memory(model, layout, device, engine, stage)
        for stage in range(layout.pipeline_parallel_size)
    ]
    fullest = min(stages, key=lambda stage: stage.kv_tokens)
    requests = requests_that_fit(fullest.kv_tokens, request_tokens, device.kv_block_tokens)
    return Estimate(layout, fullest, requests)


def stage_memory(
    model: ModelShape, layout: ParallelLayout, device: Device, engine: EngineShape, stage: int
) -> StageMemory:
    """The KV cache gets utilization * memory - weights - packed copies - buffers - vision cache -
    the activations' peak - overhead. The tower works in the first stage only, logits are made in
    the last one.
    """
    is_first, is_last = stage == 0, stage == layout.pipeline_parallel_size - 1
    weights = stage_weights(model, layout, stage)
    num_tokens = engine.max_num_batched_tokens
    buffers = buffer_bytes(model, num_tokens, engine.max_model_len, is_first_stage=is_first)
    activations = _activations(model, layout, device, engine, (is_first, is_last))
    cache = 0
    if is_first:
        cache = device_tier_bytes(model, engine.device_bytes, engine.encoder_tokens)
    overhead = device.overhead_bytes(layout.num_devices == 1)
    packed = packed_bytes(model, layout, stage) if device.is_cpu else 0
    used = weights.total + packed + buffers + activations.peak + cache + overhead
    left = max(0, device.budget_bytes - used)
    per_token = kv_bytes_per_token(model, layout, engine.kv_cache_dtype, stage)
    return StageMemory(
        weights=weights,
        packed=packed,
        buffers=buffers,
        activations=activations,
        vision_cache=cache,
        overhead=overhead,
        kv_cache=left,
        kv_bytes_per_token=per_token,
        kv_tokens=tokens_that_fit(left, per_token, device.kv_block_tokens),
    )


def _activations(
    model: ModelShape,
    layout: ParallelLayout,
    device: Device,
    engine: EngineShape,
    position: tuple[bool, bool],
) -> Activations:
    """Args: position: whether the stage is the first, and the last."""
    is_first, is_last = position
    num_patches = engine.encoder_tokens * model.vision_config.merge_area if is_first else 0
    num_tokens = engine.max_num_batched_tokens
    return Activations(
        pixels=pixel_bytes(model, num_patches),
        vision=vision_bytes(model, layout, num_patches, is_cpu=device.is_cpu),
        language=language_bytes(model, layout, num_tokens, is_cpu=device.is_cpu),
        logits=logits_bytes(model, num_tokens, engine.max_num_seqs) if is_last else 0,
    )
