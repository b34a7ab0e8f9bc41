"""What readings of a machine mean for a server: fit, to be improved, or in its way."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from multimodal.landlock import SCOPED_VERSION
from server.commands.readings import Gpu, Libraries, Machine
from server.settings import Settings
from server.units import format_bytes

Status = Literal["ok", "warn", "bad"]

_MIB, _GIB = 2**20, 2**30
_OLDEST_PYTHON = (3, 11)
_OLDEST_TRANSFORMERS = 5
_LEAST_SHARED_BYTES = 128 * _MIB  # queues between vLLM's processes; Docker gives 64 MiB
_GOOD_SHARED_BYTES = _GIB
_FILES_BESIDE_CONNECTIONS = 512
_GOOD_LOCKED_BYTES = 64 * _MIB  # what NCCL pins for its transports
_LEAST_FREE_SHARE = 0.9  # of a GPU's memory: vLLM asks for 92 %
_GOOD_READ_BYTES_PER_S = 200e6  # slower than that, a GPU makes most embeddings again


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. `advice` says what to change; empty if nothing is to be."""

    name: str
    status: Status
    message: str
    advice: str = ""


def judge_libraries(found: Libraries) -> Iterator[Finding]:
    python = ".".join(map(str, found.python))
    if found.python < _OLDEST_PYTHON:
        yield Finding("python", "bad", python, "install Python 3.11 or later")
    else:
        yield Finding("python", "ok", python)
    yield _judge_version("torch", found.torch)
    yield _judge_version("transformers", found.transformers, _OLDEST_TRANSFORMERS)
    if found.vllm is None:
        advice = "pip install 'qwen3vl-serve[cuda]' on a GPU, 'qwen3vl-serve[cpu]' without"
        yield Finding("vllm", "bad", "not installed", advice)
    elif found.fault is not None:
        advice = "install the versions of requirements/: make setup"
        yield Finding("vllm", "bad", f"{found.vllm}: {found.fault}", advice)
    else:
        yield Finding("vllm", "ok", f"{found.vllm}, and our model loads into it")
    if not found.has_plugin:
        advice = "install this package itself: pip install ."
        yield Finding("plugin", "bad", "vLLM does not find it", advice)
    else:
        yield Finding("plugin", "ok", "registered with vLLM")


def _judge_version(name: str, version: str | None, oldest_major: int = 0) -> Finding:
    if version is None:
        return Finding(name, "bad", "not installed", f"pip install {name}")
    if int(version.split(".")[0]) < oldest_major:
        advice = f"install {name} {oldest_major} or later"
        return Finding(name, "bad", f"{version} is too old", advice)
    return Finding(name, "ok", version)


def judge_gpus(gpus: tuple[Gpu, ...], libraries: Libraries) -> Iterator[Finding]:
    has_cuda_build = libraries.torch_cuda is not None
    if not gpus:
        if has_cuda_build:
            advice = "install the NVIDIA driver, or start the container with its GPUs (--gpus all)"
            yield Finding("gpu", "warn", "none, but torch is built for CUDA", advice)
        else:
            yield Finding("gpu", "ok", "none: the model runs on the CPU")
        return
    if not has_cuda_build:
        advice = "pip install 'qwen3vl-serve[cuda]' and a torch that is built for CUDA"
        yield Finding("torch and gpu", "warn", "torch is built for the CPU alone", advice)
    elif libraries.num_visible_gpus < len(gpus):
        message = f"torch sees {libraries.num_visible_gpus} of {len(gpus)}"
        advice = f"a driver for CUDA {libraries.torch_cuda}, or CUDA_VISIBLE_DEVICES"
        yield Finding(
            "torch and gpu", "warn" if libraries.num_visible_gpus else "bad", message, advice
        )
    for number, gpu in enumerate(gpus):
        yield _judge_gpu(number, gpu)


def _judge_gpu(number: int, gpu: Gpu) -> Finding:
    name = f"gpu {number}"
    free = f"{format_bytes(gpu.free_bytes)} of {format_bytes(gpu.total_bytes)} free"
    message = f"{gpu.name}, {free}, driver {gpu.driver}"
    if gpu.free_bytes < gpu.total_bytes * _LEAST_FREE_SHARE:
        advice = "end what else runs on it (nvidia-smi), or lower --gpu-memory-utilization"
        return Finding(name, "warn", message, advice)
    return Finding(name, "ok", message)


def judge_machine(found: Machine, settings: Settings) -> Iterator[Finding]:
    yield _judge_shared_memory(found)
    yield _judge_open_files(found, settings.server.max_connections)
    yield _judge_locked_memory(found)
    yield from _judge_disk(found, settings.cache.disk_dir, settings.cache.disk_bytes)
    yield _judge_port(found, settings.server.port)
    yield _judge_confinement(found)
    yield _judge_libnuma(found)
    yield _judge_compiler(found)


def _judge_shared_memory(found: Machine) -> Finding:
    name, advice = (
        "shared memory",
        "enlarge it: docker run --shm-size=8g, or mount -o size= /dev/shm",
    )
    if found.shared_total_bytes is None:
        return Finding(name, "bad", "there is no /dev/shm", "mount a tmpfs at /dev/shm")
    message = (
        f"{format_bytes(found.shared_free_bytes)} of {format_bytes(found.shared_total_bytes)} free"
    )
    if found.shared_free_bytes < _LEAST_SHARED_BYTES:
        return Finding(name, "bad", message, advice)
    if found.shared_free_bytes < _GOOD_SHARED_BYTES:
        return Finding(name, "warn", f"{message}: little for the cache's host tier", advice)
    return Finding(name, "ok", message)


def _judge_open_files(found: Machine, max_connections: int) -> Finding:
    limit, wanted = found.max_open_files, max_connections + _FILES_BESIDE_CONNECTIONS
    if limit is not None and limit < wanted:
        message = f"{limit}, too few for {max_connections} connections"
        return Finding("open files", "warn", message, f"ulimit -Hn {wanted}, or --max-connections")
    return Finding("open files", "ok", "no limit" if limit is None else str(limit))


def _judge_locked_memory(found: Machine) -> Finding:
    limit = found.max_locked_bytes
    message = "no limit" if limit is None else format_bytes(limit)
    if limit is not None and limit < _GOOD_LOCKED_BYTES and len(found.gpus) > 1:
        return Finding(
            "locked memory", "warn", f"{message}, for several GPUs", "ulimit -l unlimited"
        )
    return Finding("locked memory", "ok", message)


def _judge_disk(found: Machine, directory: str | None, disk_bytes: int) -> Iterator[Finding]:
    speed, free_bytes = found.disk_speed, found.disk_free_bytes
    if speed is None:
        yield Finding("disk tier", "ok", "none (--disk-dir)")
    elif speed.fault is not None:
        advice = "give it to this user, or another --disk-dir"
        yield Finding("disk tier", "bad", f"{directory}: {speed.fault}", advice)
    else:
        message = f"writes {speed.written / 1e6:.0f} MB/s, reads {speed.read / 1e6:.0f} MB/s"
        is_slow = speed.read < _GOOD_READ_BYTES_PER_S
        advice = "a local NVMe disk: a slow tier is bypassed" if is_slow else ""
        yield Finding("disk tier", "warn" if is_slow else "ok", message, advice)
    if free_bytes is not None and free_bytes < disk_bytes:
        message = f"{format_bytes(free_bytes)} free, the budget is {format_bytes(disk_bytes)}"
        yield Finding("disk space", "warn", message, "lower --disk-bytes, or make room")


def _judge_port(found: Machine, port: int) -> Finding:
    if found.port_fault is not None:
        advice = "end what listens there, or take another --port"
        return Finding("port", "warn", f"{port}: {found.port_fault}", advice)
    return Finding("port", "ok", f"{port} is free")


def _judge_confinement(found: Machine) -> Finding:
    name = "video confinement"
    if not found.has_no_new_privs:
        return Finding(name, "bad", "the kernel has no no_new_privs", "Linux 3.5 or later")
    if found.landlock < 1:
        advice = "Linux 5.13 or later with `landlock` in its lsm= list, allowed by the container"
        return Finding(
            name, "warn", "no Landlock: videos are decoded with less around them", advice
        )
    if found.landlock < SCOPED_VERSION:
        message = f"Landlock {found.landlock}: signals are not confined"
        return Finding(name, "ok", message, "")
    return Finding(name, "ok", f"Landlock {found.landlock}, no_new_privs")


def _judge_libnuma(found: Machine) -> Finding:
    if found.has_libnuma:
        return Finding("libnuma", "ok", "found")
    status: Status = "warn" if found.gpus else "bad"
    return Finding("libnuma", status, "missing: vLLM on a CPU needs it", "apt install libnuma1")


def _judge_compiler(found: Machine) -> Finding:
    if found.compiler is not None:
        return Finding("compiler", "ok", found.compiler)
    message = "none: kernels that are compiled at start cannot be"
    return Finding("compiler", "bad" if found.gpus else "warn", message, "apt install g++")


def judge_plan(plan: Mapping[str, Any]) -> Finding:
    """Args: plan: as `qwen3vl-serve plan --json` prints it."""
    device, needed = plan["device"], plan["devices_needed"]
    where = f"{device['count']} x {device['name']} of {format_bytes(device['memory_bytes'])}"
    if not plan["fits"]:
        advice = f"{needed} of them would do: " if needed else "a device with more memory: "
        return Finding(
            "memory", "bad", f"{plan['model']} does not fit: {where}", advice + "see plan"
        )
    weights = format_bytes(plan["per_device"]["weights"]["total"])
    message = f"{plan['model']} fits: {where}, weights {weights} each"
    wanted = plan["workload"]["concurrency"]
    if plan["requests"] < wanted:
        advice = "a shorter --max-model-len, or more devices: see plan"
        return Finding("memory", "warn", f"{message}; {plan['requests']} requests at once", advice)
    return Finding("memory", "ok", f"{message}; {plan['requests']} requests at once")
