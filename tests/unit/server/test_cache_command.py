"""`qwen3vl-serve cache` on directories that real tiers have written."""

import errno
import io
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from multimodal.vision_tier import Tier
from server.cli import main

NAMESPACES = ("0a" * 16, "0b" * 16)
KEYS = ("11" * 32, "22" * 32, "33" * 32)
WIDTH = 8


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Two entries of one namespace, used in this order, and one of another."""
    path = tmp_path / "tier"
    path.mkdir(mode=0o700)
    used = ((200, NAMESPACES[0]), (100, NAMESPACES[0]), (7200, NAMESPACES[1]))
    for (age, namespace), key in zip(used, KEYS, strict=True):
        tier = open_tier(path, namespace)
        assert tier.store(key, torch.ones(int(key[0]), WIDTH, dtype=torch.bfloat16))
        used_at = time.time() - age
        os.utime(file_of(path, key), (used_at, used_at))
    return path


def open_tier(path: Path, namespace: str) -> Tier:
    return Tier("disk", path, namespace, 1 << 20, fsync=False)


def file_of(path: Path, key: str) -> Path:
    (found,) = path.glob(f"*/{key[:2]}/{key}.vision")
    return found


def damage(path: Path, key: str) -> Path:
    file = file_of(path, key)
    content = bytearray(file.read_bytes())
    content[514] ^= 1  # in the rows
    file.write_bytes(content)
    return file


def run_json(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, Any]:
    status = main(["cache", *argv, "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_ls_tells_what_there_is_used_last_first(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, listed = run_json(capsys, "ls", "--dir", str(directory))
    assert status == 0
    assert [entry["key"] for entry in listed["entries"]] == [KEYS[1], KEYS[0], KEYS[2]]
    first = listed["entries"][0]
    assert first["shape"] == [2, WIDTH] and first["dtype"] == "bfloat16"
    assert first["namespace"] == NAMESPACES[0] and 100 <= first["age_s"] < 3600
    assert first["bytes"] == file_of(directory, KEYS[1]).stat().st_size


def test_ls_for_people_has_short_names(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "ls", "--dir", str(directory)]) == 0
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split()[:4] == ["KEY", "NAMESPACE", "SIZE", "USED"] and len(rows) == 3
    first, second = KEYS[2][:12], NAMESPACES[1][:12]
    assert " ".join(rows[2].split()) == f"{first} {second} 592 B 2 h ago 3 x 8 bfloat16"


def test_ls_shows_a_damaged_header(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file_of(directory, KEYS[0]).write_bytes(b"nothing of ours")
    assert main(["cache", "ls", "--dir", str(directory)]) == 0
    assert "damaged" in capsys.readouterr().out


def test_stats_are_sums(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, stats = run_json(capsys, "stats", "--dir", str(directory))
    sizes = {key: file_of(directory, key).stat().st_size for key in KEYS}
    assert status == 0 and stats["entries"] == 3 and stats["bytes"] == sum(sizes.values())
    assert stats["namespaces"] == {
        NAMESPACES[0]: sizes[KEYS[0]] + sizes[KEYS[1]],
        NAMESPACES[1]: sizes[KEYS[2]],
    }
    assert stats["oldest_age_s"] >= 7200 and stats["limit_bytes"] is None


def test_the_limit_is_that_of_settings_that_name_the_directory(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text(f"cache:\n  disk_dir: {directory}\n  disk_bytes: 1073741824\n")
    argv = ("stats", "--dir", str(directory), "--config", str(config))
    assert run_json(capsys, *argv)[1]["limit_bytes"] == 1 << 30
    assert main(["cache", *argv]) == 0
    assert "1.0 GiB" in capsys.readouterr().out


def test_verify_finds_damage_and_removes_it_when_asked(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_json(capsys, "verify", "--dir", str(directory)) == (
        0,
        {"verified": 3, "damaged": [], "removed": False},
    )
    file = damage(directory, KEYS[0])
    status, found = run_json(capsys, "verify", "--dir", str(directory))
    assert status == 1
    assert found["damaged"] == [{"path": str(file), "reason": "the checksum differs"}]
    assert file.exists() and not found["removed"]
    status, found = run_json(capsys, "verify", "--dir", str(directory), "--remove")
    assert (status, found["removed"], file.exists()) == (1, True, False)
    assert main(["cache", "verify", "--dir", str(directory)]) == 0
    assert "2 entries verified, 0 damaged" in capsys.readouterr().out


def test_what_cannot_be_read_is_not_removed(
    directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("multimodal.vision_directory.read_verified", fail)
    assert main(["cache", "verify", "--dir", str(directory), "--remove"]) == 2
    assert "Too many open files" in capsys.readouterr().err
    assert all(file_of(directory, key).exists() for key in KEYS)


def test_verify_finds_an_entry_under_another_name(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = "11" * 31 + "ff"
    file_of(directory, KEYS[0]).rename(directory / NAMESPACES[0] / "11" / f"{other}.vision")
    status, found = run_json(capsys, "verify", "--dir", str(directory))
    assert (status, found["damaged"][0]["reason"]) == (1, "it is another entry's content")


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_clear_asks(
    directory: Path,
    answer: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    assert main(["cache", "clear", "--dir", str(directory)]) == 1
    assert "Remove 3 entries" in capsys.readouterr().err and file_of(directory, KEYS[0]).exists()


def test_clear_leaves_a_tier_that_is_in_use_working(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And whatever is no entry where it is."""
    tier = open_tier(directory, NAMESPACES[0])
    assert tier.load(KEYS[0]) is not None
    foreign = directory / "README"
    foreign.write_text("not an entry")
    status, removed = run_json(capsys, "clear", "--dir", str(directory), "--yes")
    assert (status, removed["removed"]) == (0, 3)
    assert not tier.contains(KEYS[0]) and tier.load(KEYS[0]) is None
    assert tier.store(KEYS[0], torch.ones(1, WIDTH)) and tier.load(KEYS[0]) is not None
    assert foreign.exists()


def test_a_directory_that_is_missing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cache", "ls", "--dir", str(tmp_path / "none")]) == 2
    assert "there is no directory" in capsys.readouterr().err
