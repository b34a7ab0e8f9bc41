"""What a real server says when it is ready: in its log, and on a terminal."""

import os
import pty
import re
import select
import subprocess
import time
from pathlib import Path

from tests.e2e.real_server import COMMAND, HOST_DIR, RealServer, server_environment, wait_until

TIMEOUT_S = 300


def test_the_log_has_one_line_with_what_is_served(hybrid: RealServer) -> None:
    ready = re.compile(r".* INFO server\.start_report: ready .*\n")
    wait_until(lambda: bool(ready.search(hybrid.log)), TIMEOUT_S)
    (line,) = ready.findall(hybrid.log)
    assert f"api={hybrid.base_url}/v1" in line and "model=tiny kind=hybrid" in line
    assert "max_model_len=32768" in line and "dtype=float32" in line and "api_keys=false" in line
    assert "\x1b" not in hybrid.log and "safetensors checkpoint shards" not in hybrid.log


def test_a_terminal_shows_progress_and_then_the_report(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    environment = server_environment(**{HOST_DIR: str(tmp_path / "host")})
    options = ("--port", "0", "--kv-cache-bytes", str(2**26), "--max-model-len", "1024")
    process = subprocess.Popen(
        [COMMAND, "serve", "demo", *options],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        shown = read_until(ours, re.compile(r"  API     http://127\.0\.0\.1:\d+/v1"))
    finally:
        process.terminate()
        drain(ours)
        assert process.wait(TIMEOUT_S) == 0
        os.close(ours)
    assert re.search(r"\x1b\[2Kstarting the engine, \d+ s", shown)
    assert "  model   demo: hybrid, dense, not quantised" in shown
    assert "context 1,024 tokens" in shown and "start_report: ready" not in shown


def read_until(terminal: int, pattern: re.Pattern[str]) -> str:
    deadline, shown = time.monotonic() + TIMEOUT_S, b""
    while not pattern.search(text := shown.decode(errors="replace")):
        assert time.monotonic() < deadline, text[-2000:]
        if select.select([terminal], [], [], 1)[0]:
            shown += os.read(terminal, 65536)
    return text


def drain(terminal: int) -> None:
    """Until the last process has closed its end, so that none waits to write."""
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:
        return
