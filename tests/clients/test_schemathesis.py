"""Requests made up from the server's own OpenAPI document: what that promises is what it does."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from conftest import Server
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

FOLDER = Path(__file__).parent
COMMAND = Path(sys.executable).with_name("schemathesis")
_TIMEOUT_S = 170


def test_the_document_is_valid(server: Server) -> None:
    with urllib.request.urlopen(f"{server.url}/openapi.json", timeout=10) as response:
        OPENAPI_31_VALIDATOR.validate(json.load(response))


@pytest.mark.timeout(_TIMEOUT_S + 10)
def test_every_operation_keeps_its_promises(server: Server, tmp_path: Path) -> None:
    config = f"--config-file={FOLDER / 'schemathesis.toml'}"
    run = subprocess.run(
        [COMMAND, config, "run", f"{server.url}/openapi.json", "--no-color"],
        cwd=tmp_path,  # where it writes what it found
        env={**os.environ, "PYTHONPATH": str(FOLDER), "SERVER_MODEL": server.model},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
    )
    print(run.stdout, run.stderr)
    assert run.returncode == 0
