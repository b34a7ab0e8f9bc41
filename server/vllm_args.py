"""The settings in vLLM's words: its engine arguments, and what it reads from the environment."""

import os
import socket
from pathlib import Path
from typing import Any

import psutil
import torch._dynamo
from vllm.config import ECTransferConfig, EPLBConfig, ProfilerConfig
from vllm.config.ec_manager_config import EncoderCacheManagerConfig
from vllm.config.structured_outputs import StructuredOutputsConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform

from multimodal.vision_cache import VisionCacheConfig
from multimodal.vllm_plugin import LORA_TARGET_MODULES, REASONING_GATE
from server.context_length import ContextLength
from server.settings import EngineSettings, SettingsError

_GIB = 1024**3
_PREFILL_SCHEDULER = "server.vllm_scheduler.make_scheduler"
_PLAIN_SCHEDULER = "server.vllm_scheduler.make_plain_scheduler"
# Kernels of matrix products that are kept, one for each shape met: by oneDNN itself and, in front
# of it, by PyTorch (https://github.com/pytorch/pytorch/issues/27971), 1,024 each by default. One
# takes 250 to 450 KiB, whatever the model, and each number of patches is a new shape. vLLM's linear
# layers have 32 each beside these, which share theirs as long as oneDNN keeps them.
_KEPT_KERNELS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32", "LRU_CACHE_CAPACITY": "32"}
_FIT_MEMORY = -1  # vLLM: the longest context that the KV cache holds


def is_cpu(settings: EngineSettings) -> bool:
    if settings.profile == "auto":
        return bool(current_platform.is_cpu())
    return settings.profile == "cpu"


def num_workers(settings: EngineSettings) -> int:
    """Processes that run a part of the model."""
    num_stages = settings.pipeline_parallel_size
    return settings.data_parallel_size * settings.tensor_parallel_size * num_stages


def check_platform(settings: EngineSettings) -> None:
    """Raises: SettingsError for what vLLM cannot do on this platform, or only pretends to."""
    if settings.enable_sleep_mode and not _can_sleep(settings):
        raise SettingsError("engine.enable_sleep_mode: the engine can only sleep on a GPU")
    if settings.speculative_config and settings.pipeline_parallel_size > 1 and is_cpu(settings):
        raise SettingsError(
            "engine.speculative_config: with pipeline_parallel_size above 1 it needs a GPU"
        )


def _can_sleep(settings: EngineSettings) -> bool:
    return not is_cpu(settings) and bool(current_platform.is_sleep_mode_available())


def engine_args(
    model: str,
    settings: EngineSettings,
    context: ContextLength,
    cache: VisionCacheConfig,
    device_bytes: int | None,
    profile_dir: Path | None,
) -> AsyncEngineArgs:
    args: dict[str, Any] = {
        "model": model,
        "revision": settings.revision,
        "served_model_name": settings.served_model_name or settings.model,  # a label in /metrics
        "dtype": settings.dtype,
        "max_num_seqs": settings.max_num_seqs,
        "max_num_batched_tokens": settings.max_num_batched_tokens,
        "kv_cache_memory_bytes": settings.kv_cache_bytes,
        "kv_cache_dtype": settings.kv_cache_dtype,
        "gpu_memory_utilization": _gpu_memory_share(settings, device_bytes),
        "tensor_parallel_size": settings.tensor_parallel_size,
        "pipeline_parallel_size": settings.pipeline_parallel_size,
        "data_parallel_size": settings.data_parallel_size,
        "enable_expert_parallel": settings.enable_expert_parallel,
        "enable_eplb": settings.enable_eplb,
        "eplb_config": EPLBConfig(num_redundant_experts=settings.num_redundant_experts),
        "distributed_executor_backend": settings.distributed_executor_backend,
        "nnodes": settings.nnodes,
        "node_rank": settings.node_rank,
        "master_addr": settings.master_addr,
        "master_port": settings.master_port,
        "enforce_eager": settings.enforce_eager,
        "speculative_config": settings.speculative_config,
        "enable_sleep_mode": settings.enable_sleep_mode,
        "sleep_preserve_parameter_names": _kept_asleep(settings),
        **_role_args(settings),
        **_lora_args(settings),
        "mm_encoder_tp_mode": settings.mm_encoder_tp_mode,
        "mm_encoder_attn_backend": _attn_backend(settings.mm_encoder_attn_backend),
        "compilation_config": _compilation_config(settings),
        "seed": settings.seed,
        "use_tqdm_on_load": False,  # it would write between the lines of the log
    }
    given = {name: value for name, value in args.items() if value is not None}
    defaults = _cpu_defaults(settings) if is_cpu(settings) else {}
    return AsyncEngineArgs(
        **(defaults | given),
        # there is no KV cache without a language model
        max_model_len=None if settings.role == "encoder" else _FIT_MEMORY,
        hf_overrides=dict(context.hf_overrides),
        # Items carry our own keys; vLLM's processor cache would mirror them in two processes.
        mm_processor_cache_gb=0,
        scheduler_cls=_PREFILL_SCHEDULER if settings.fair_prefill else _PLAIN_SCHEDULER,
        scheduling_policy="priority",  # see `FairClients`
        structured_outputs_config=StructuredOutputsConfig(
            backend="xgrammar", reasoning_parser=REASONING_GATE
        ),
        worker_extension_cls="model_executor.worker_extension.WorkerExtension",
        ec_transfer_config=ECTransferConfig(
            ec_connector="VisionCacheConnector",
            ec_connector_module_path="multimodal.vllm_cache_connector",
            # an `ec_producer` has no language model, and vLLM measures its encoder at start
            ec_role="ec_producer" if settings.role == "encoder" else "ec_consumer",
            ec_connector_extra_config=cache.to_dict(),
        ),
        ec_manager_config=EncoderCacheManagerConfig(
            encoder_cache_manager_cls="multimodal.vllm_encoder_cache.VisionEncoderCacheManager",
            manager_config={"device_bytes": device_bytes},
        ),
        profiler_config=_profiler_config(profile_dir),
    )


def _lora_args(settings: EngineSettings) -> dict[str, Any]:
    if not settings.enable_lora:
        return {}
    return {
        "enable_lora": True,
        "max_loras": settings.max_loras,
        "max_lora_rank": settings.max_lora_rank,
        "max_cpu_loras": settings.max_cpu_loras,
        "enable_tower_connector_lora": True,
        "lora_target_modules": list(LORA_TARGET_MODULES),
    }


def _kept_asleep(settings: EngineSettings) -> list[str] | None:
    """Weights that survive a sleep that drops the others: a drafter's are not loaded again."""
    return ["draft.*"] if settings.enable_sleep_mode and settings.speculative_config else None


def _role_args(settings: EngineSettings) -> dict[str, Any]:
    """A language model without a vision tower takes embeddings: from the vision cache."""
    if settings.role == "language":
        return {"limit_mm_per_prompt": {"image": 0, "video": 0}, "enable_mm_embeds": True}
    return {}


def _attn_backend(name: str | None) -> str | None:
    """Raises: ValueError for a back-end that the vision tower cannot run with here."""
    known = [backend.name for backend in current_platform.get_supported_vit_attn_backends()]
    if name is None or name.upper() in known:
        return name and name.upper()
    raise ValueError(
        f"engine.mm_encoder_attn_backend: must be one of {', '.join(known)} (given: {name!r})"
    )


def _compilation_config(settings: EngineSettings) -> dict[str, Any] | None:
    return {"cudagraph_mm_encoder": True} if settings.cudagraph_mm_encoder else None


def _profiler_config(directory: Path | None) -> ProfilerConfig:
    """Until a profile is started, it costs nothing.

    This process is left to py-spy: little of torch runs in it, and its record has no bound.
    """
    if directory is None:
        return ProfilerConfig()
    return ProfilerConfig(
        profiler="torch", torch_profiler_dir=str(directory.absolute()), ignore_frontend=True
    )


def _cpu_defaults(settings: EngineSettings) -> dict[str, Any]:
    """No compilation, small batches, a KV cache of stated size.

    vLLM would claim 92 % of the memory, and touches all of it at start. 2 GiB hold 18,000 tokens of
    the 2B model; the context is cut to what fits.
    """
    return {
        "max_num_seqs": 32,
        "max_num_batched_tokens": 2048,
        "kv_cache_memory_bytes": min(psutil.virtual_memory().available // 4, 2 * _GIB),
        "enforce_eager": True,
    }


def _gpu_memory_share(settings: EngineSettings, device_bytes: int | None) -> float | None:
    """For weights and KV cache: embeddings are kept beside what vLLM's profiling run measures."""
    share = settings.gpu_memory_utilization
    if device_bytes is None or is_cpu(settings):
        return share
    share = share or AsyncEngineArgs.gpu_memory_utilization
    return share - device_bytes / current_platform.get_device_total_memory()


def _split_cores(settings: EngineSettings) -> str:
    """As many cores for each process, `0,1|2,3`; vLLM wants a NUMA node for each of them."""
    cores = sorted(os.sched_getaffinity(0))
    num_here = num_workers(settings) // settings.nnodes or 1
    num_each = max(1, len(cores) // num_here)
    starts = range(0, num_each * num_here, num_each)
    shares = (cores[start % len(cores) :][:num_each] for start in starts)
    return "|".join(",".join(map(str, share)) for share in shares)


def set_engine_environment(
    settings: EngineSettings, args: AsyncEngineArgs, run_folder: str
) -> None:
    """What vLLM reads from the environment. Args: run_folder: for its sockets."""
    if is_cpu(settings) and args.enforce_eager:
        _disable_compilation()
    if is_cpu(settings):
        for name, number in _KEPT_KERNELS.items():
            os.environ.setdefault(name, number)
    if is_cpu(settings) and num_workers(settings) > 1:
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", _split_cores(settings))
    if settings.nnodes > 1:
        address = _own_address(settings.master_addr)
        os.environ.setdefault("VLLM_HOST_IP", address)
        if interface := _interface_of(address):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    os.environ["VLLM_RPC_BASE_PATH"] = run_folder  # vLLM leaves its sockets behind


def _own_address(master_addr: str) -> str:
    """The address of this machine on the way to node 0; vLLM takes the one to the internet."""
    family, _, _, _, address = socket.getaddrinfo(master_addr, 1, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(address)  # sends nothing
        return str(probe.getsockname()[0])


def _interface_of(address: str) -> str | None:
    """Its name, which gloo wants; by itself it takes that of the host name's address."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in addresses):
            return name
    return None


def _disable_compilation() -> None:
    """Keep small functions of vLLM's sampler from being compiled by C++ when they are first used.

    That stops the engine for seconds, and kills it where there is no compiler. The variable is for
    spawned processes, the attribute for a forked one.
    """
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    torch._dynamo.config.disable = True
