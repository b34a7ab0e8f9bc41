"""Servers as processes: how ours and stock vLLM are started, waited for and ended."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import httpx

from benchmarks.client import MODEL_NAME

_POLL_INTERVAL_S = 0.05
_START_TIMEOUT_S = 180.0
_END_TIMEOUT_S = 60.0
_LOG_TAIL_BYTES = 3000
_OFFLINE = {"HF_HUB_OFFLINE": "1"}  # the checkpoints are local
_READY_PATHS = ("/ready", "/health", "/v1/models")  # the first that a server has
# vLLM's worker keeps a core busy for a second after its last step, in case there is another one.
SETTLE_S = 1.5
# What whoever runs a benchmark has set for a server must not reach only one of the two.
_SERVER_PREFIXES = ("QWEN3VL_", "VLLM_")
# The largest dummy that stock prepares at start; nothing that is measured depends on it.
_DUMMY = {"width": 256, "height": 256}
_STOCK_LIMITS = {"image": {"count": 64, **_DUMMY}, "video": {"count": 4, "num_frames": 4, **_DUMMY}}


@dataclass(frozen=True, slots=True)
class EngineNumbers:
    """The same for both engines."""

    max_model_len: int = 32768
    max_num_batched_tokens: int = 4096
    max_num_seqs: int = 16
    kv_cache_gib: int = 1


@dataclass(frozen=True, slots=True)
class Launch:
    """A command and what is added to its environment; `{port}` in it becomes a free port."""

    command: Sequence[str]
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def command_line(self) -> str:
        """Both as one command, for other programs that start servers."""
        variables = [f"{name}={value}" for name, value in self.variables.items()]
        line = shlex.join(["env", *variables, *self.command] if variables else self.command)
        return line.replace("'{port}'", "{port}")


@dataclass(frozen=True, slots=True)
class Server:
    """One that answers. `ready_s`: from the creation of its process to the first 200."""

    base_url: str
    pid: int
    ready_s: float


def our_launch(checkpoint: Path, numbers: EngineNumbers, cache: Mapping[str, str]) -> Launch:
    """Ours, of the environment that runs the benchmark. `cache`: see `CacheFolders.variables`."""
    options = {
        "--served-model-name": MODEL_NAME,
        "--port": "{port}",
        "--max-model-len": numbers.max_model_len,
        "--max-num-batched-tokens": numbers.max_num_batched_tokens,
        "--max-num-seqs": numbers.max_num_seqs,
        "--kv-cache-bytes": numbers.kv_cache_gib * 1024**3,
    }
    program = str(Path(sys.executable).with_name("qwen3vl-serve"))
    variables = {**_OFFLINE, **cache}
    return Launch([program, "serve", str(checkpoint.absolute()), *_flags(options)], variables)


def stock_launch(python: Path, checkpoint: Path, numbers: EngineNumbers) -> Launch:
    """Stock vLLM with what makes it fastest on a CPU; prefix caching is on by default.

    By itself it leaves one core to its scheduler and lets waiting threads spin. On two cores one
    thread for each core, sleeping while it waits, gives 1.8 times the throughput; Intel's OpenMP
    (`LD_PRELOAD`), which it recommends, gives half of that.
    """
    options = {
        "--model": checkpoint.absolute(),
        "--served-model-name": MODEL_NAME,
        "--host": "127.0.0.1",
        "--port": "{port}",
        "--max-model-len": numbers.max_model_len,
        "--max-num-batched-tokens": numbers.max_num_batched_tokens,
        "--max-num-seqs": numbers.max_num_seqs,
        "--limit-mm-per-prompt": json.dumps(_STOCK_LIMITS),
    }
    variables = {
        **_stock_variables(numbers),
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    switches = ["--enforce-eager", "--skip-mm-profiling"]
    return Launch([*_stock_program(python), *switches, *_flags(options)], variables)


def default_stock_launch(python: Path, checkpoint: Path, numbers: EngineNumbers) -> Launch:
    """Stock vLLM as it starts by itself, but for the size of the KV cache."""
    options = {
        "--model": checkpoint.absolute(),
        "--served-model-name": MODEL_NAME,
        "--host": "127.0.0.1",
        "--port": "{port}",
    }
    return Launch([*_stock_program(python), *_flags(options)], _stock_variables(numbers))


@contextmanager
def running(launch: Launch, timeout_s: float = _START_TIMEOUT_S) -> Iterator[Server]:
    """A server that is ready; its process group is ended as a whole.

    Raises: RuntimeError with the end of its log if it ends or takes too long.
    """
    command = " ".join(launch.command)
    port = free_port()
    base_url = f"http://127.0.0.1:{port}"
    started_s = time.perf_counter()
    with (
        httpx.Client(base_url=base_url, timeout=1.0, trust_env=False, verify=False) as http,
        tempfile.TemporaryFile() as log,
        _process(launch, port, log) as process,
    ):
        while not _is_ready(http):
            if process.poll() is not None:
                raise RuntimeError(
                    f"ended with status {process.returncode}: {command}\n{log_tail(log)}"
                )
            if time.perf_counter() - started_s > timeout_s:
                raise RuntimeError(f"not ready after {timeout_s:g} s: {command}\n{log_tail(log)}")
            time.sleep(_POLL_INTERVAL_S)
        yield Server(base_url, process.pid, time.perf_counter() - started_s)
        if process.poll() is not None:
            print(f"the server has ended: {command}\n{log_tail(log)}", file=sys.stderr)


def end_on_sigterm() -> None:
    """From here on a SIGTERM or SIGHUP ends the servers before it ends this process."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


@contextmanager
def _process(launch: Launch, port: int, log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [part.replace("{port}", str(port)) for part in launch.command],
        stdout=log,
        stderr=subprocess.STDOUT,
        env=_environment(launch.variables),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_TIMEOUT_S)
        _kill_group(process.pid)
        process.wait()


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(_SERVER_PREFIXES)}
    return {**inherited, **variables}


def _stock_program(python: Path) -> list[str]:
    return [str(python.absolute()), "-m", "vllm.entrypoints.openai.api_server"]


def _stock_variables(numbers: EngineNumbers) -> dict[str, str]:
    return {
        **_OFFLINE,
        "VLLM_CPU_KVCACHE_SPACE": str(numbers.kv_cache_gib),
        "PYTHONSAFEPATH": "1",  # nothing of this folder is imported by chance
    }


def _flags(options: Mapping[str, object]) -> list[str]:
    return [str(part) for option in options.items() for part in option]


def log_tail(log: IO[bytes]) -> str:
    log.seek(max(0, os.fstat(log.fileno()).st_size - _LOG_TAIL_BYTES))
    return log.read().decode(errors="replace")


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # all of it has ended


def _is_ready(http: httpx.Client) -> bool:
    try:
        for path in _READY_PATHS:
            status = http.get(path).status_code
            if status != 404:
                return status == 200
    except httpx.HTTPError:
        pass
    return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
