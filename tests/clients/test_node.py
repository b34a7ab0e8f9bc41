"""The JavaScript clients, by Node's own test runner."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import Server

FOLDER = Path(__file__).parent / "node"
NODE = shutil.which("node")
_TIMEOUT_S = 110


@pytest.mark.skipif(
    NODE is None or not (FOLDER / "node_modules").is_dir(),
    reason="there is no node here, or no npm to install its packages",
)
@pytest.mark.parametrize("file", sorted(path.name for path in FOLDER.glob("*.test.mjs")))
def test_file_passes(server: Server, file: str) -> None:
    assert NODE is not None
    run = subprocess.run(
        [NODE, "--test", "--test-reporter=spec", file],
        cwd=FOLDER,
        env={**os.environ, "SERVER_URL": server.url, "SERVER_MODEL": server.model},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
    )
    print(run.stdout, run.stderr)
    assert run.returncode == 0
