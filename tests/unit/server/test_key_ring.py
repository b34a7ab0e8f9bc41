import logging
import os
from pathlib import Path

import pytest

from server.access.key_ring import KeyRing
from server.settings import SettingsError
from tests.api_keys import write_key_file


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_key_file(tmp_path / "keys.json", {"key": "old"})


def replace(path: Path, *entries: dict[str, str]) -> None:
    """As `qwen3vl-serve keys` does it."""
    new = path.with_suffix(".new")
    write_key_file(new, *entries)
    os.replace(new, path)


async def names(ring: KeyRing) -> list[str]:
    return [entry.name for entry in (await ring.current()).entries]


async def test_a_changed_file_is_read_again_after_a_second(path: Path) -> None:
    clock = Clock()
    ring = KeyRing(path, clock)
    replace(path, {"key": "new"})
    assert await names(ring) == ["old"]
    clock.now_s = 1.0
    assert await names(ring) == ["new"]


async def test_the_file_is_looked_at_once_a_second(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, looks = Clock(), []
    ring = KeyRing(path, clock)
    read = ring._read_stamp
    monkeypatch.setattr(ring, "_read_stamp", lambda: looks.append(clock.now_s) or read())
    for tenths in range(41):
        clock.now_s = tenths / 10
        await ring.current()
    assert looks == [1.0, 2.0, 3.0, 4.0]


async def test_an_unchanged_file_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    ring = KeyRing(path, clock)
    monkeypatch.setattr("server.access.key_ring.read_keys", None)
    clock.now_s = 5.0
    assert await names(ring) == ["old"]


@pytest.mark.parametrize("is_forced", [True, False])
async def test_a_change_in_place_of_the_same_length_is_seen(path: Path, is_forced: bool) -> None:
    ring = KeyRing(path, Clock())
    status = path.stat()
    write_key_file(path, {"key": "new"})
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    await ring.refresh(is_forced=is_forced)
    assert await names(ring) == ["new"]


async def test_a_broken_file_keeps_the_keys_and_is_reported_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    ring = KeyRing(path, clock)
    path.write_text("sk-qwen3vl-oops")
    for _ in range(3):
        clock.now_s += 1
        assert await names(ring) == ["old"]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "is not JSON" in record.getMessage() and "oops" not in record.getMessage()
    write_key_file(path, {"key": "mended"})
    clock.now_s += 1
    assert await names(ring) == ["mended"]


async def test_a_file_that_is_gone_or_gets_unsafe_keeps_the_keys(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    ring = KeyRing(path, clock)
    path.chmod(0o666)
    clock.now_s = 1
    assert await names(ring) == ["old"]
    path.unlink()
    clock.now_s = 2
    assert await names(ring) == ["old"]
    messages = [record.getMessage() for record in caplog.records]
    assert "other users may write it" in messages[0] and "No such file" in messages[1]
    write_key_file(path, {"key": "back"})
    clock.now_s = 3
    assert await names(ring) == ["back"]


def test_a_file_that_cannot_be_used_from_the_start_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^access\.api_keys_file: .*No such file"):
        KeyRing(tmp_path / "none.json")


@pytest.mark.parametrize(("mode", "num_warnings"), [(0o600, 0), (0o644, 1)])
def test_a_file_that_others_can_read_is_a_warning(
    path: Path, mode: int, num_warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    path.chmod(mode)
    KeyRing(path)
    assert len(caplog.records) == num_warnings
