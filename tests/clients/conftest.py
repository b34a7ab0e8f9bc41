"""The real server with the demo model, for clients that know nothing of it but its address."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or importing it waits for the network

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ROOT / ".venv" / "bin" / "qwen3vl-serve"
# Responses are kept, as `previous_response_id` needs it.
OPTIONS = ("--store-max-bytes", str(16 * 1024**2))
_START_TIMEOUT_S = 120
_END_TIMEOUT_S = 60
_LOG_LINES = 60


@dataclass(frozen=True, slots=True)
class Server:
    """Where it listens, `http://host:port`, and the name of its model."""

    url: str
    model: str

    @property
    def v1(self) -> str:
        return f"{self.url}/v1"


@pytest.fixture(scope="session")
def log_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server") / "log"


@pytest.fixture(scope="session")
def server(log_path: Path) -> Iterator[Server]:
    """A server of this session's own."""
    with run_server(log_path) as server:
        yield server


@contextmanager
def run_server(log_path: Path, *options: str) -> Iterator[Server]:
    """A server; at the end it must stop by itself when it is asked to."""
    url = f"http://127.0.0.1:{_free_port()}"
    process = _start(url, log_path, options)
    try:
        _wait_until_ready(process, url, log_path)
        models = json.loads(_get(f"{url}/v1/models"))
        yield Server(url, models["data"][0]["id"])
        process.send_signal(signal.SIGTERM)
        process.wait(_END_TIMEOUT_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(autouse=True)
def _show_log(request: pytest.FixtureRequest, server: Server, log_path: Path) -> Iterator[None]:
    """What the server wrote while a test failed stands in that test's report."""
    start = log_path.stat().st_size
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        print(log_path.read_bytes()[start:].decode(errors="replace"))


def _start(url: str, log_path: Path, options: Sequence[str]) -> subprocess.Popen[bytes]:
    port = url.rpartition(":")[2]
    command = [str(COMMAND), "serve", "demo", "--port", port, "--host", "127.0.0.1", *OPTIONS]
    command += ["--host-dir", str(log_path.with_name("cache")), *options]
    inherited = {n: v for n, v in os.environ.items() if not n.startswith(("QWEN3VL_", "VLLM_"))}
    environment = {**inherited, "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    with log_path.open("wb") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log_path: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            _get(f"{url}/ready")
            return
        except OSError:  # not listening yet, or a 503
            time.sleep(0.2)
    lines = log_path.read_text(errors="replace").splitlines()[-_LOG_LINES:]
    pytest.exit("\n".join(["the server is not ready:", *lines]), returncode=1)


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as response:
        return bytes(response.read())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
