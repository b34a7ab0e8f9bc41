"""Requests made up from the server's own OpenAPI document: what that promises is what it does.

Every operation is asked with what the document allows and with what it does not: no answer is a
fault of the server, and statuses, headers and bodies are those that the document names.
"""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Server, run_server
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

FOLDER = Path(__file__).parent
COMMAND = Path(sys.executable).with_name("schemathesis")
# Without the settings of the operator's server below, they are not there.
OPTIONAL = r"^/(start_profile|stop_profile|v1/(un)?load_lora_adapter)$"
_TIMEOUT_S = 500  # one to two minutes on a quiet machine


@pytest.fixture(scope="module")
def operators_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that takes profiles and adapters. None on a CPU has the operations of sleep."""
    folder = tmp_path_factory.mktemp("operators_server")
    for name in ("profiles", "adapters"):
        (folder / name).mkdir()
    options = ["--profile-dir", str(folder / "profiles"), "--enable-lora", "true"]
    with run_server(
        folder / "log", *options, "--lora-dir", str(folder / "adapters")
    ) as operators_server:
        yield operators_server


def run_schemathesis(server: Server, folder: Path, *options: str) -> None:
    config = f"--config-file={FOLDER / 'schemathesis.toml'}"
    run = subprocess.run(
        [COMMAND, config, "run", f"{server.url}/openapi.json", "--no-color", *options],
        cwd=folder,  # where it writes what it found
        env={**os.environ, "PYTHONPATH": str(FOLDER), "SERVER_MODEL": server.model},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
    )
    print(run.stdout, run.stderr)
    assert run.returncode == 0


def test_the_document_is_valid(server: Server) -> None:
    with urllib.request.urlopen(f"{server.url}/openapi.json", timeout=10) as response:
        OPENAPI_31_VALIDATOR.validate(json.load(response))


@pytest.mark.timeout(_TIMEOUT_S + 10)
def test_every_operation_keeps_its_promises(server: Server, tmp_path: Path) -> None:
    run_schemathesis(server, tmp_path)


@pytest.mark.timeout(_TIMEOUT_S + 130)  # the server's start included
def test_operations_that_a_setting_turns_on_keep_theirs(
    operators_server: Server, tmp_path: Path
) -> None:
    phases = "--phases=coverage,fuzzing"  # no links lead to or from them
    run_schemathesis(operators_server, tmp_path, f"--include-path-regex={OPTIONAL}", phases)
