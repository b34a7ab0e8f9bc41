"""Servers as processes of their own: started, waited for, asked, stopped and checked."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import httpx
import openai
import psutil
from prometheus_client.parser import text_string_to_metric_families

from server.settings import ENV_DELIMITER, ENV_PREFIX

COMMAND = str(Path(sys.executable).with_name("qwen3vl-serve"))
MODEL_NAME = "tiny"
HOST_DIR = f"{ENV_PREFIX}CACHE{ENV_DELIMITER}HOST_DIR"
_OPTIONS: Mapping[str, Any] = {
    "served_model_name": MODEL_NAME,
    "port": 0,
    "dtype": "float32",  # so that batching does not change which token is the most likely one
    "kv_cache_bytes": 256 * 1024**2,
}
_START_TIMEOUT_S = 300
_END_TIMEOUT_S = 60
_GONE_TIMEOUT_S = 20  # they look once a second whether the server lives
_STREAM_TIMEOUT_S = 400  # vLLM waits 300 s for the step of a node that is gone
_POLL_S = 0.05


class ServerProcess:
    """An OpenAI-compatible server; a context manager that leaves no process behind.

    Args:
        log_path: file that takes both output streams of the server.
        variables: for its environment.
    """

    address: re.Pattern[str]  # what the server writes to its log when it listens
    ready_path: str

    def __init__(self, command: list[str], log_path: Path, **variables: str) -> None:
        self._command = command
        self._variables = variables
        self._log_path = log_path
        self._descendants: set[psutil.Process] = set()

    def __enter__(self) -> Self:
        with self._log_path.open("wb") as log:
            self._popen = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=server_environment(**self._variables),
                start_new_session=True,
            )
        self.process = psutil.Process(self._popen.pid)
        try:
            self._wait_until_ready()
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        try:
            if self._popen.poll() is None and error_type is None:
                self.terminate()
                self.wait()
                self.assert_nothing_left()
        finally:
            self._kill()

    @property
    def log(self) -> str:
        return self._log_path.read_text(errors="replace")

    @cached_property
    def base_url(self) -> str:
        found = self.address.search(self.log)
        assert found, self._log_tail
        return found[1]

    @cached_property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.base_url}/v1", api_key="none", max_retries=0)

    @cached_property
    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.base_url, timeout=120)

    def ask(self, content: Any, **options: Any) -> Any:
        """A whole answer to one user message, as `make_request` has it."""
        return self.client.chat.completions.create(**make_request(content, **options))

    def stream(self, content: Any, **options: Any) -> list[Any]:
        """The chunks of the same as a stream."""
        return list(self.ask(content, stream=True, **options))

    def sample(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels; 0 before there is any."""
        text = self.http.get("/metrics").text
        families = [f for f in text_string_to_metric_families(text) if name.startswith(f.name)]
        assert families, f"{name} is not in /metrics"
        samples = [s for family in families for s in family.samples if s.name == name]
        return sum(s.value for s in samples if labels.items() <= s.labels.items())

    def labels(self, name: str, label: str) -> set[str]:
        """The values of a label among a metric's samples."""
        text = self.http.get("/metrics").text
        families = text_string_to_metric_families(text)
        samples = [s for family in families for s in family.samples if s.name == name]
        return {s.labels[label] for s in samples}

    def terminate(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask the server to end."""
        self._descendants |= set(self.process.children(recursive=True))
        self._popen.send_signal(number)

    def kill(self) -> None:
        """As `kill -9` does; returns when the server is gone, its descendants may not be."""
        self._descendants |= set(self.process.children(recursive=True))
        self._popen.kill()
        self.wait()

    def wait(self) -> int:
        """The exit status, once the server has ended."""
        return self._popen.wait(_END_TIMEOUT_S)

    def assert_nothing_left(self) -> None:
        """No process that the server started outlives it by more than a moment."""
        psutil.wait_procs(self._remaining(), timeout=_GONE_TIMEOUT_S)
        left = {process: command_of(process) for process in self._remaining()}
        assert left == {}, self._log_tail

    def _wait_until_ready(self) -> None:
        def is_ready() -> bool:
            if self._popen.poll() is not None:
                raise RuntimeError(f"the server has ended:\n{self._log_tail}")
            return bool(self.address.search(self.log)) and self._is_ready()

        wait_until(is_ready, _START_TIMEOUT_S)

    @property
    def _log_tail(self) -> str:
        return "\n".join(self.log.splitlines()[-30:])

    def _is_ready(self) -> bool:
        try:
            return self.http.get(self.ready_path).status_code == 200
        # it writes its address before it listens, and closes what seemed idle while it was busy
        except (httpx.ConnectError, httpx.RemoteProtocolError):
            return False

    def _remaining(self) -> list[psutil.Process]:
        """Descendants that live, those in sessions of their own as far as they were seen."""
        session = {p for p in psutil.process_iter() if _session_of(p.pid) == self._popen.pid}
        return [p for p in session | self._descendants if is_alive(p)]

    def _kill(self) -> None:
        if self._popen.poll() is None:
            self._descendants |= set(self.process.children(recursive=True))
        for process in self._remaining():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._popen.wait(_END_TIMEOUT_S)


class RealServer(ServerProcess):
    """`qwen3vl-serve serve MODEL` on a free port, with a vision cache of its own beside its log.

    Args:
        options: settings by name, `max_model_len=256` is `--max-model-len 256`.
        variables: for its environment.
    """

    address = re.compile(r"Uvicorn running on (https?://\S+)")
    ready_path = "/ready"

    def __init__(
        self,
        model: Path | str,
        log_path: Path,
        variables: Mapping[str, str] = MappingProxyType({}),
        **options: Any,
    ) -> None:
        command = serve_command(str(model), **{**_OPTIONS, **options})
        host_dir = log_path.with_name(f"{log_path.name}.host")
        super().__init__(command, log_path, **{HOST_DIR: str(host_dir), **variables})

    @property
    def engine_process(self) -> psutil.Process:
        """The process that runs the model."""
        named = [p for p in self.process.children() if "EngineCore" in command_of(p)]
        assert len(named) == 1, self.process.children()
        return named[0]


def serve_command(model: str, **options: Any) -> list[str]:
    flags = (("--" + name.replace("_", "-"), str(value)) for name, value in options.items())
    return [COMMAND, "serve", model, *(part for flag in flags for part in flag)]


def server_environment(**variables: str) -> dict[str, str]:
    """The environment of the tests without what they, or who runs them, set for the engine."""
    ours = (ENV_PREFIX, "VLLM_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**inherited, "HF_HUB_OFFLINE": "1", **variables}


def make_request(content: Any, *, thinks: bool | None = False, **options: Any) -> dict[str, Any]:
    """One user message; greedy, short and without thinking unless the options say otherwise.

    Args:
        thinks: None leaves it to the checkpoint.
    """
    defaults: dict[str, Any] = {
        "model": MODEL_NAME,
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": 16,
    }
    if thinks is not None:
        defaults["reasoning_effort"] = "high" if thinks else "none"
    return {**defaults, **options}


def wait_until(is_true: Callable[[], bool], timeout_s: float = 30) -> None:
    """Poll a condition that must come true."""
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, "it has not come true in time"
        time.sleep(_POLL_S)


@contextmanager
def open_stream(server: ServerProcess, content: Any, **options: Any) -> Iterator[Iterator[str]]:
    """The lines of a streamed answer; leaving the block closes the connection."""
    body = make_request(content, stream=True, **options)
    with (
        httpx.Client(base_url=server.base_url, timeout=_STREAM_TIMEOUT_S) as client,
        client.stream("POST", "/v1/chat/completions", json=body) as response,
    ):
        assert response.status_code == 200
        yield response.iter_lines()


def command_of(process: psutil.Process) -> str:
    """Its command line, or the title that it has given itself; empty if it has ended."""
    with suppress(psutil.NoSuchProcess):  # a zombie as well
        return " ".join(process.cmdline())
    return ""


def _session_of(pid: int) -> int | None:
    with suppress(ProcessLookupError, PermissionError):
        return os.getsid(pid)
    return None


def is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
