"""Folders of a run: gone at its end; those of killed servers go at the next start, no others."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from server.run_folder import RunFolder, remove_left_overs

_OWNER = """
from server.run_folder import RunFolder
folder = RunFolder()
(folder.path / "file").write_text("left")
print(folder.path, flush=True)
input()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def start_owner(temporary: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _OWNER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )


def read_path(owner: subprocess.Popen[str]) -> Path:
    assert owner.stdout is not None
    return Path(owner.stdout.readline().strip())


def end(owner: subprocess.Popen[str], number: signal.Signals) -> None:
    with owner:
        owner.send_signal(number)


def test_a_folder_is_removed_at_the_end() -> None:
    with RunFolder() as folder:
        assert folder.path.stat().st_mode & 0o777 == 0o700
        (folder.path / "file").touch()
    assert not folder.path.exists()
    folder.cleanup()


def test_a_forked_process_does_not_remove_the_folder() -> None:
    with RunFolder() as folder:
        if (child := os.fork()) == 0:
            folder.cleanup()
            os._exit(0)
        os.waitpid(child, 0)
        assert folder.path.exists()


def test_the_folder_of_a_killed_process_is_removed_and_that_of_a_living_one_is_not(
    temporary: Path,
) -> None:
    owner = start_owner(temporary)
    path = read_path(owner)
    try:
        remove_left_overs()
        assert (path / "file").read_text() == "left"
    finally:
        end(owner, signal.SIGKILL)
    assert (path / "file").exists()
    remove_left_overs()
    assert not path.exists()


def test_the_own_folder_is_no_left_over() -> None:
    with RunFolder() as folder:
        remove_left_overs()
        assert folder.path.exists()


def test_a_folder_without_a_lock_is_left_alone(temporary: Path) -> None:
    foreign = temporary / "qwen3vl-serve-foreign"
    foreign.mkdir()
    (foreign / "file").touch()
    remove_left_overs()
    assert (foreign / "file").exists()


@pytest.mark.parametrize("linked", ["folder", "lock"])
def test_links_are_not_followed(temporary: Path, linked: str) -> None:
    foreign = temporary / "foreign"
    foreign.mkdir()
    (foreign / "owner.lock").touch()
    link = temporary / "qwen3vl-serve-link"
    if linked == "folder":
        link.symlink_to(foreign)
    else:
        link.mkdir()
        (link / "owner.lock").symlink_to(foreign / "owner.lock")
    remove_left_overs()
    assert link.exists() and (foreign / "owner.lock").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user's folder, which root can make")
def test_the_folders_of_other_users_are_left_alone(temporary: Path) -> None:
    foreign = temporary / "qwen3vl-serve-other"
    foreign.mkdir()
    (foreign / "owner.lock").touch()
    os.chown(foreign, 65534, 65534)
    remove_left_overs()
    assert foreign.exists()
