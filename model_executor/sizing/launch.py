"""The arguments that start what was planned: of this server, and of vLLM's own."""

from collections.abc import Iterator

from model_executor.sizing.device import Device
from model_executor.sizing.estimate import EngineShape
from model_executor.sizing.parallel_layout import ParallelLayout

_Value = str | int | float | bool


def serve_command(
    model: str, dtype: str, layout: ParallelLayout, engine: EngineShape, device: Device
) -> list[str]:
    """`qwen3vl-serve serve ...`; its flags always take a value."""
    command = ["qwen3vl-serve", "serve", model]
    for name, value in _arguments(dtype, layout, engine, device):
        command += [_flag(name), str(value).lower()]
    if engine.device_bytes is not None:
        command += ["--device-bytes", str(engine.device_bytes)]
    return command


def vllm_command(
    model: str, dtype: str, layout: ParallelLayout, engine: EngineShape, device: Device
) -> list[str]:
    """`vllm serve ...`; what is true or false is a bare flag."""
    command = ["vllm", "serve", model]
    for name, value in _arguments(dtype, layout, engine, device):
        command += [_flag(name)] if value is True else [_flag(name), str(value)]
    return command


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _arguments(
    dtype: str, layout: ParallelLayout, engine: EngineShape, device: Device
) -> Iterator[tuple[str, _Value]]:
    for name in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"):
        if getattr(layout, name) > 1:
            yield name, getattr(layout, name)
    if layout.enable_expert_parallel:
        yield "enable_expert_parallel", True
    if layout.mm_encoder_tp_mode != "weights":
        yield "mm_encoder_tp_mode", layout.mm_encoder_tp_mode
    if dtype != "auto":
        yield "dtype", dtype
    yield "max_model_len", engine.max_model_len
    yield "max_num_seqs", engine.max_num_seqs
    yield "max_num_batched_tokens", engine.max_num_batched_tokens
    if engine.kv_cache_dtype != "auto":
        yield "kv_cache_dtype", engine.kv_cache_dtype
    yield "gpu_memory_utilization", device.utilization
