"""What several suites of faults share."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path | None]:
    """A file system of 16 MB; None where this user may not mount one."""
    path = tmp_path_factory.mktemp("mount")
    options = ["-t", "tmpfs", "-o", "size=16m,mode=700", "tmpfs", str(path)]
    if subprocess.run(["mount", *options], capture_output=True).returncode != 0:
        yield None
        return
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)
