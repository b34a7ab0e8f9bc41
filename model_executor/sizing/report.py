"""A plan as text for people, and as one JSON document."""

import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from model_executor.sizing.device import GIB, Device
from model_executor.sizing.estimate import Estimate
from model_executor.sizing.launch import Launch
from model_executor.sizing.model_shape import ModelShape
from model_executor.sizing.recommend import Recommendation
from model_executor.sizing.vision_cache import entry_bytes
from model_executor.sizing.weights import num_parameters
from model_executor.sizing.workload import RequestTokens, Workload

_MAX_REFUSED = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is printed. `dtype`: as it was asked for."""

    model: ModelShape
    dtype: str
    device: Device
    count: int
    workload: Workload
    tokens: RequestTokens
    recommendation: Recommendation
    tier_bytes: int

    @property
    def pictures_in_tier(self) -> int:
        return self.tier_bytes // entry_bytes(self.model, self.tokens.image)


def to_json(plan: Plan) -> dict[str, Any]:
    """Bytes are plain numbers; the layout is None if the model does not fit."""
    best, model = plan.recommendation.best, plan.model
    return {
        "model": model.name,
        "num_parameters": num_parameters(model),
        "dtype": model.dtype,
        "quantization": model.quantization.method if model.quantization else None,
        "device": {**asdict(plan.device), "count": plan.count},
        "workload": asdict(plan.workload),
        "request_tokens": {**asdict(plan.tokens), "total": plan.tokens.total},
        "fits": best is not None,
        "devices_needed": plan.recommendation.devices_needed,
        "layout": asdict(best.layout) if best else None,
        "engine": asdict(plan.recommendation.engine),
        "per_device": _device_json(best) if best else None,
        "requests": best.requests if best else 0,
        "vision_cache": {
            "bytes_per_picture": entry_bytes(model, plan.tokens.image),
            "tier_bytes": plan.tier_bytes,
            "pictures_in_tier": plan.pictures_in_tier,
        },
        "commands": _commands(plan, best) if best else None,
        "refused": [
            {"layout": asdict(layout), "reason": reason}
            for layout, reason in plan.recommendation.refused
        ],
    }


def _device_json(best: Estimate) -> dict[str, Any]:
    stage = best.stage
    return {
        "weights": {**asdict(stage.weights), "total": stage.weights.total},
        "packed": stage.packed,
        "buffers": stage.buffers,
        "activations": {**asdict(stage.activations), "peak": stage.activations.peak},
        "vision_cache": stage.vision_cache,
        "overhead": stage.overhead,
        "kv_cache": stage.kv_cache,
        "kv_bytes_per_token": stage.kv_bytes_per_token,
        "kv_tokens": stage.kv_tokens,
    }


def _commands(plan: Plan, best: Estimate) -> dict[str, str]:
    launch = Launch(
        plan.model.name, plan.dtype, plan.device, plan.recommendation.engine, estimate=best
    )
    return {
        "qwen3vl-serve": shlex.join(launch.serve_command()),
        "vllm": shlex.join(launch.vllm_command()),
    }


def to_text(plan: Plan) -> str:
    lines = [*_model_lines(plan), ""]
    best = plan.recommendation.best
    if best is None:
        lines += [_no_fit(plan)]
    else:
        lines += [*_layout_lines(plan, best), "", *_memory_lines(plan, best), ""]
        lines += [*_capacity_lines(plan, best), "", *_commands(plan, best).values()]
    return "\n".join(lines)


def _model_lines(plan: Plan) -> Iterator[str]:
    model, tokens, workload = plan.model, plan.tokens, plan.workload
    format_name = model.dtype
    if model.quantization:
        format_name = f"{model.quantization.method}, the rest {model.dtype}"
    yield f"{model.name}: {num_parameters(model) / 1e9:.2f} B parameters in {format_name}"
    device = plan.device
    yield (
        f"{plan.count} x {device.name}, {device.memory_bytes / GIB:.1f} GiB each, of which the "
        f"engine may use {device.utilization:.0%}"
    )
    width, height = workload.image_size
    yield (
        f"a request: {tokens.total} tokens = {tokens.text} of text, {tokens.images} of "
        f"{workload.images_per_request} images of {width}x{height}, {tokens.video} of video, "
        f"{tokens.output} of answer"
    )


def _no_fit(plan: Plan) -> str:
    needed = plan.recommendation.devices_needed
    name = plan.device.name
    advice = f"needs {needed} x {name}" if needed else f"no number of {name} up to 1024 would do"
    return f"does not fit: {advice} for {plan.workload.concurrency} requests at once"


def _layout_lines(plan: Plan, best: Estimate) -> Iterator[str]:
    layout = best.layout
    parts = [f"TP {layout.tensor_parallel_size}", f"PP {layout.pipeline_parallel_size}"]
    parts += [f"DP {layout.data_parallel_size}"]
    if layout.enable_expert_parallel:
        parts += [f"EP {layout.num_expert_shards}"]
    if layout.tensor_parallel_size > 1:
        parts += [f"vision tower {_TOWER[layout.mm_encoder_tp_mode]}"]
    yield "layout: " + ", ".join(parts)
    if layout.num_devices < plan.count:
        yield f"  {plan.count - layout.num_devices} devices are left over"
    reasons = dict.fromkeys(reason for _, reason in plan.recommendation.refused)
    for reason in list(reasons)[:_MAX_REFUSED]:
        yield f"  passed over: {reason}"


_TOWER = {"data": "whole on each device", "weights": "split"}


def _memory_lines(plan: Plan, best: Estimate) -> Iterator[str]:
    stage = best.stage
    weights, activations = stage.weights, stage.activations
    rows = [
        ("weights", weights.total, _parts(_present(weights))),
        ("activations, peak", activations.peak, _parts(_present(activations))),
        ("vision cache", stage.vision_cache, "embeddings of one encoder step, or the budget"),
        ("buffers", stage.buffers, "inputs, DeepStack levels, rotary table"),
        ("overhead", stage.overhead, "assumed: driver context, graphs, collectives"),
        ("KV cache", stage.kv_cache, f"{stage.kv_tokens} tokens of {stage.kv_bytes_per_token} B"),
    ]
    if stage.packed:
        rows.insert(
            1, ("packed copies", stage.packed, "of embedding and head, for a CPU's kernels")
        )
    yield "per device, GiB:"
    for name, num_bytes, note in rows:
        yield f"  {name:<18}{num_bytes / GIB:>8.2f}   {note}"
    yield f"  {'of':<18}{plan.device.budget_bytes / GIB:>8.2f}"


def _present(part: Any) -> dict[str, int]:
    """Attributes of a slotted dataclass that are not zero."""
    return {name: value for name, value in asdict(part).items() if value}


def _parts(values: dict[str, int]) -> str:
    return ", ".join(f"{name} {value / GIB:.2f}" for name, value in values.items())


def _capacity_lines(plan: Plan, best: Estimate) -> Iterator[str]:
    wanted, needed = plan.workload.concurrency, plan.recommendation.devices_needed
    kv_bytes = plan.tokens.total * best.stage.kv_bytes_per_token
    yield (
        f"requests at once: {best.requests} fit, {best.requests_per_replica} in each of "
        f"{best.layout.data_parallel_size} replicas; {wanted} wanted; "
        f"{kv_bytes / GIB:.2f} GiB of KV cache each"
    )
    if best.requests < wanted:
        advice = f"{needed} devices would hold them" if needed else "no number of devices holds all"
        yield f"  the others wait in the queue: {advice}"
    if plan.tokens.image and plan.workload.images_per_request:
        picture = entry_bytes(plan.model, plan.tokens.image)
        yield (
            f"vision cache: {picture / 2**20:.1f} MiB for a picture of {plan.tokens.image} tokens; "
            f"{plan.tier_bytes / GIB:.0f} GiB of host memory or disk hold {plan.pictures_in_tier}"
        )
