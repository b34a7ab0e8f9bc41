"""A quantised checkpoint that this machine's kernels cannot run."""

import subprocess
from pathlib import Path

from tests.e2e.real_server import serve_command
from tests.quantised_checkpoints import SPEC, build_quantised
from tests.quantised_kinds import KINDS


def test_the_server_ends_and_names_the_quantisation(tmp_path: Path) -> None:
    folder = build_quantised(tmp_path, KINDS["nvfp4"], SPEC).folder
    command = serve_command(str(folder), port=0, max_model_len=256)
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1
    expected = (
        "the checkpoint's quantisation compressed-tensors on this cpu: Failed to find a kernel"
    )
    assert expected in done.stderr
