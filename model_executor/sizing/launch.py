"""The arguments that start what was planned: of this server, and of vLLM's own."""

from collections.abc import Iterator
from dataclasses import dataclass

from model_executor.sizing.device import Device
from model_executor.sizing.estimate import EngineShape, Estimate


@dataclass(frozen=True, slots=True)
class Launch:
    """Attributes:
    model, dtype: as they were asked for.
    """

    model: str
    dtype: str
    device: Device
    engine: EngineShape
    estimate: Estimate

    def serve_command(self) -> list[str]:
        """`qwen3vl-serve serve ...`; its flags always take a value."""
        command = ["qwen3vl-serve", "serve", self.model]
        for name, value in self._arguments():
            command += [_flag(name), str(value).lower()]
        if self.device.is_cpu:
            command += ["--kv-cache-bytes", str(self.estimate.stage.kv_cache)]
        if self.engine.device_bytes is not None:
            command += ["--device-bytes", str(self.engine.device_bytes)]
        return command

    def vllm_command(self) -> list[str]:
        """`vllm serve ...`; what is true or false is a bare flag."""
        command = ["vllm", "serve", self.model]
        for name, value in self._arguments():
            command += [_flag(name)] if value is True else [_flag(name), str(value)]
        if self.device.is_cpu:
            command += ["--kv-cache-memory-bytes", str(self.estimate.stage.kv_cache)]
        return command

    def _arguments(self) -> Iterator[tuple[str, str | int | float | bool]]:
        layout, engine = self.estimate.layout, self.engine
        for name in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"):
            if getattr(layout, name) > 1:
                yield name, getattr(layout, name)
        if layout.enable_expert_parallel:
            yield "enable_expert_parallel", True
        if layout.mm_encoder_tp_mode != "weights":
            yield "mm_encoder_tp_mode", layout.mm_encoder_tp_mode
        if self.dtype != "auto":
            yield "dtype", self.dtype
        yield "max_model_len", engine.max_model_len
        yield "max_num_seqs", engine.max_num_seqs
        yield "max_num_batched_tokens", engine.max_num_batched_tokens
        if engine.kv_cache_dtype != "auto":
            yield "kv_cache_dtype", engine.kv_cache_dtype
        if not self.device.is_cpu:  # there the KV cache is given in bytes
            yield "gpu_memory_utilization", self.device.utilization


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
