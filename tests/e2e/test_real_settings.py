"""Wrong settings end the command at once, with one clear line."""

import subprocess
from pathlib import Path

import pytest

from tests.e2e.real_server import RealServer, serve_command, server_environment


def run(model: str = "demo", variables: dict[str, str] | None = None, **options):
    return subprocess.run(
        serve_command(model, **options),
        env=server_environment(**(variables or {})),
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("options", "variables", "named"),
    [
        ({"port": 99999}, {}, ["server.port", "65535", "99999"]),
        ({"port": "http"}, {}, ["server.port", "integer"]),
        ({}, {"QWEN3VL_SERVER__PORT": "99999"}, ["QWEN3VL_SERVER__PORT", "65535"]),
        ({}, {"QWEN3VL_SERVER__PROT": "80"}, ["QWEN3VL_SERVER__PROT", "unknown"]),
        ({"dtype": "float8"}, {}, ["engine.dtype", "'float32'", "'float8'"]),
        ({"config": "missing.yaml"}, {}, ["missing.yaml", "No such file"]),
    ],
    ids=["flag", "type", "variable", "unknown variable", "choice", "file"],
)
def test_wrong_setting_is_named_on_one_line(options, variables, named):
    ended = run(variables=variables, **options)
    assert ended.returncode == 2
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("qwen3vl-serve: ")
    assert all(words in line for words in named), line


def test_unknown_flag_is_named():
    ended = run(nonsense=1)
    assert ended.returncode == 2
    assert "--nonsense" in ended.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def without_folder(tmp_path_factory: pytest.TempPathFactory):
    return run(str(tmp_path_factory.mktemp("models") / "missing"))


def test_missing_model_folder_ends_the_command(without_folder):
    assert without_folder.returncode == 2
    assert "models0/missing" in without_folder.stderr.splitlines()[-1]


def test_missing_model_folder_is_named_on_one_line(without_folder):
    lines = without_folder.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("qwen3vl-serve: ")


def test_port_in_use_ends_the_command(instruct: RealServer, hybrid_checkpoint: Path):
    port = instruct.base_url.rpartition(":")[2]
    ended = run(str(hybrid_checkpoint), port=port, max_model_len=256, kv_cache_bytes=2**25)
    assert ended.returncode == 2
    assert f"port {port}: Address already in use" in ended.stderr
