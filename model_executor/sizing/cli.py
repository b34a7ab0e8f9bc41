"""`qwen3vl-serve plan MODEL`: its flags, and from them the plan."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from model_executor.sizing.device import CPU, GIB, GPU_MEMORY_GIB, Device, find_gpu
from model_executor.sizing.estimate import EngineShape
from model_executor.sizing.kv_cache import KV_CACHE_DTYPES
from model_executor.sizing.model_shape import (
    DTYPE_BYTES,
    ModelShape,
    UnknownModel,
    read_model_shape,
)
from model_executor.sizing.published import is_published
from model_executor.sizing.recommend import Demand, recommend
from model_executor.sizing.report import Plan, to_json, to_text
from model_executor.sizing.workload import RequestTokens, Workload, request_tokens
from multimodal.errors import MediaError
from multimodal.preprocessor_config import PreprocessorConfig, load_preprocessor_config

_CONTEXT_STEP = 1024  # a context that is not asked for is a multiple of it


def main(argv: Sequence[str], folders: Mapping[str, str] | None = None) -> int:
    """Print a plan.

    Args:
        folders: of models that go by another name.
    Returns: the exit status: 0 if the model fits, 1 if not, 2 for what cannot be planned.
    """
    arguments = parser().parse_args(argv)
    try:
        plan = make_plan(arguments, (folders or {}).get(arguments.model, arguments.model))
    except (UnknownModel, MediaError, OSError, ValueError) as error:
        print(f"qwen3vl-serve plan: {error}", file=sys.stderr)
        return 2
    print(json.dumps(to_json(plan), indent=2) if arguments.json else to_text(plan))
    return 0 if plan.recommendation.best is not None else 1


def parser() -> argparse.ArgumentParser:
    plan = argparse.ArgumentParser(
        prog="qwen3vl-serve plan",
        description="Memory, layout and arguments for a model, from its configuration alone.",
    )
    plan.add_argument("model", metavar="MODEL", help="local folder, published or hub name")
    plan.add_argument("--revision", help="branch, tag or commit on Hugging Face")
    plan.add_argument("--json", action="store_true", help="one JSON document, bytes as numbers")
    _add_devices(plan)
    _add_engine(plan)
    _add_requests(plan)
    return plan


def _add_devices(plan: argparse.ArgumentParser) -> None:
    names = ", ".join((*GPU_MEMORY_GIB, CPU))
    plan.add_argument("--gpu", default="H100", help=f"kind of device: {names}")
    plan.add_argument("--gpu-memory-gib", type=_positive, help="GiB that one device reports")
    plan.add_argument("--count", type=_count, default=1, help="devices")
    plan.add_argument(
        "--gpu-memory-utilization", type=_share, default=0.92, help="share that the engine may use"
    )


def _add_engine(plan: argparse.ArgumentParser) -> None:
    plan.add_argument("--dtype", choices=("auto", *DTYPE_BYTES), default="auto")
    plan.add_argument("--quantization", choices=("fp8",), help="count as if published in FP8")
    plan.add_argument("--kv-cache-dtype", choices=KV_CACHE_DTYPES, default="auto")
    plan.add_argument(
        "--max-model-len", type=_count, help="default: a request's tokens, rounded up"
    )
    plan.add_argument("--max-num-batched-tokens", type=_count, help="default: by the device")
    plan.add_argument("--device-bytes", type=_count, help="device tier of the vision cache")
    plan.add_argument(
        "--tier-gib", type=_positive, default=64.0, help="host or disk tier to fill with pictures"
    )


def _add_requests(plan: argparse.ArgumentParser) -> None:
    default = Workload()
    plan.add_argument("--concurrency", type=_count, default=default.concurrency)
    plan.add_argument("--prompt-tokens", type=_count, default=default.prompt_tokens)
    plan.add_argument("--images-per-request", type=_amount, default=default.images_per_request)
    plan.add_argument(
        "--image-size", type=_size, default=default.image_size, metavar="WxH", help="pixels"
    )
    plan.add_argument(
        "--video-seconds", type=float, default=0.0, help="of one video, its frames of --image-size"
    )
    plan.add_argument("--max-output-tokens", type=_count, default=default.max_output_tokens)


def make_plan(arguments: argparse.Namespace, source: str) -> Plan:
    """Args: source: folder or hub name to read the configuration from.

    Raises: UnknownModel, MediaError, OSError; ValueError for flags that cannot be meant.
    """
    config = _preprocessor(source, arguments.revision)
    model = read_model_shape(source, arguments.revision, arguments.dtype, arguments.quantization)
    model = replace(model, name=arguments.model)
    device = _device(arguments)
    workload = Workload(
        concurrency=arguments.concurrency,
        prompt_tokens=arguments.prompt_tokens,
        images_per_request=arguments.images_per_request,
        image_size=arguments.image_size,
        video_seconds=arguments.video_seconds,
        max_output_tokens=arguments.max_output_tokens,
    )
    tokens = request_tokens(workload, config)
    engine = _engine(arguments, model, tokens, device, config)
    demand = Demand(workload.concurrency, tokens.total)
    return Plan(
        model=model,
        dtype=arguments.dtype,
        device=device,
        count=arguments.count,
        workload=workload,
        tokens=tokens,
        recommendation=recommend(model, device, arguments.count, engine, demand),
        tier_bytes=int(arguments.tier_gib * GIB),
    )


def _preprocessor(model: str, revision: str | None) -> PreprocessorConfig:
    """The checkpoint's, or the published ones' where only `config.json` is at hand."""
    if is_published(model):
        return PreprocessorConfig()
    try:
        return load_preprocessor_config(model, revision)
    except OSError:
        return PreprocessorConfig()


def _device(arguments: argparse.Namespace) -> Device:
    name = find_gpu(arguments.gpu)
    memory_gib = arguments.gpu_memory_gib or GPU_MEMORY_GIB.get(name or "")
    if memory_gib is None:
        raise ValueError(
            f"the memory of {arguments.gpu} is not known: give --gpu-memory-gib, or one of "
            f"{', '.join(GPU_MEMORY_GIB)}"
        )
    return Device(name or arguments.gpu, int(memory_gib * GIB), arguments.gpu_memory_utilization)


def _engine(
    arguments: argparse.Namespace,
    model: ModelShape,
    tokens: RequestTokens,
    device: Device,
    config: PreprocessorConfig,
) -> EngineShape:
    longest = model.text_config.max_position_embeddings
    if tokens.total > (arguments.max_model_len or longest):
        raise ValueError(
            f"a request of {tokens.total} tokens exceeds the context of "
            f"{arguments.max_model_len or longest}"
        )
    rounded = -(-tokens.total // _CONTEXT_STEP) * _CONTEXT_STEP
    return EngineShape(
        max_model_len=arguments.max_model_len or min(rounded, longest),
        max_num_seqs=arguments.concurrency,
        max_num_batched_tokens=arguments.max_num_batched_tokens or device.default_batched_tokens,
        max_item_tokens=config.max_item_tokens,
        kv_cache_dtype=arguments.kv_cache_dtype,
        device_bytes=arguments.device_bytes,
    )


def _count(text: str) -> int:
    return _at_least(int(text), 1)


def _amount(text: str) -> int:
    return _at_least(int(text), 0)


def _at_least(number: int, least: int) -> int:
    if number < least:
        raise argparse.ArgumentTypeError(f"{number} is less than {least}")
    return number


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _share(text: str) -> float:
    number = float(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not in (0, 1]")
    return number


def _size(text: str) -> tuple[int, int]:
    """`WxH` in pixels."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT")
    return int(width), int(height)
