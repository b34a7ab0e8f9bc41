"""Damaged, foreign and hostile files, full, read-only and vanished directories, many processes."""

import errno
import json
import multiprocessing
import os
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from blake3 import blake3

from multimodal import vision_entry, vision_file, vision_tier
from multimodal.vision_entry import DamagedEntry, read_entry, write_entry
from multimodal.vision_tier import Tier

NAMESPACE = "0a" * 16
KEYS = [f"{number:064x}" for number in range(0x1000, 0x1040)]
MAX_BYTES = 1 << 20
NOBODY = 65534
WAIT_S = 120


def make_embedding(number: int = 0, width: int = 16) -> torch.Tensor:
    return torch.full((2, width), number, dtype=torch.bfloat16)


def make_tier(directory: Path, max_bytes: int = MAX_BYTES, **options: Any) -> Tier:
    return Tier("disk", directory, NAMESPACE, max_bytes, fsync=False, **options)


def find_path(directory: Path, key: str) -> Path:
    return directory / NAMESPACE / key[:2] / f"{key}.vision"


def encode(embedding: torch.Tensor, key: str = KEYS[0]) -> bytes:
    file = BytesIO()
    write_entry(file, NAMESPACE, key, embedding)
    return file.getvalue()


def assert_damaged(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(DamagedEntry):
        read_entry(str(path), NAMESPACE, KEYS[0], max_bytes=MAX_BYTES)


def assert_dropped(tier: Tier) -> None:
    """What lies under the name of `KEYS[0]` is a miss, counted as damage once."""
    for _ in range(3):
        assert tier.load(KEYS[0]) is None
    assert not tier.contains(KEYS[0])
    assert tier.counts.damaged == 1
    assert tier.counts.misses == 3


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "tier"


@pytest.fixture
def tier(directory: Path) -> Tier:
    return make_tier(directory)


@pytest.fixture
def path(tier: Tier, directory: Path) -> Path:
    """The file of `KEYS[0]`, whole."""
    tier.store(KEYS[0], make_embedding())
    return find_path(directory, KEYS[0])


# Files that are not what they should be.


def test_every_truncation_is_damage(tmp_path: Path) -> None:
    data = encode(make_embedding())
    for num_bytes in range(len(data)):
        assert_damaged(tmp_path / "entry", data[:num_bytes])


@pytest.mark.parametrize("num_more", [1, 2, 32, 512, 544, 4096])
def test_bytes_at_the_end_are_damage(tmp_path: Path, num_more: int) -> None:
    assert_damaged(tmp_path / "entry", encode(make_embedding()) + bytes(num_more))


def test_every_flipped_bit_is_damage(tmp_path: Path) -> None:
    data = encode(make_embedding())
    for position in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        assert_damaged(tmp_path / "entry", bytes(flipped))


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [2, 17]},
        {"shape": [2**62, 2**62]},
        {"shape": [10**300, 0]},
        {"shape": [-2, -16]},
        {"shape": [True, 32]},
        {"shape": [2.0, 16]},
        {"shape": ["2", 16]},
        {"shape": [32]},
        {"shape": 32},
        {"shape": None},
        {"dtype": "float32"},
        {"dtype": "int16"},
        {"dtype": "load"},
        {"dtype": ["bfloat16"]},
        {"dtype": None},
        {"key": KEYS[1]},
        {"namespace": "0b" * 16},
        {"more": 1},
    ],
    ids=str,
)
def test_a_wrong_header_is_damage_whatever_the_checksum(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    fields = {"namespace": NAMESPACE, "key": KEYS[0], "shape": [2, 16], "dtype": "bfloat16"}
    header = json.dumps(fields | change).encode()
    assert_damaged(tmp_path / "entry", _seal(b"q3vision" + header))


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[1]", b"1", b'"a"', b"null", b"NaN", b"{", b"[" * 504, b"\xff\xfe"]
)
def test_no_header_is_damage_whatever_the_checksum(tmp_path: Path, text: bytes) -> None:
    assert_damaged(tmp_path / "entry", _seal(b"q3vision" + text))


def test_another_magic_is_damage_whatever_the_checksum(tmp_path: Path) -> None:
    header = encode(make_embedding())[:512]
    assert_damaged(tmp_path / "entry", _seal(b"q4vision" + header[8:]))


def _seal(header: bytes) -> bytes:
    body = header.ljust(512) + bytes(64)
    return body + bytes(blake3(body).digest())


def test_random_files_are_damage(tmp_path: Path) -> None:
    source = random.Random(1)
    for _ in range(200):
        assert_damaged(tmp_path / "entry", source.randbytes(source.randrange(2000)))


def test_a_damaged_file_is_a_miss_and_removed(
    tier: Tier, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(path.read_bytes()[:-1])
    assert_dropped(tier)
    assert not path.exists()
    assert len(caplog.messages) == 1
    assert tier.store(KEYS[0], make_embedding())
    assert tier.load(KEYS[0]) is not None


def test_another_keys_content_is_a_miss(tier: Tier, path: Path, directory: Path) -> None:
    tier.store(KEYS[1], make_embedding())
    shutil.copy(find_path(directory, KEYS[1]), path)
    assert_dropped(tier)


def test_a_directory_under_the_name_is_a_miss(tier: Tier, path: Path) -> None:
    path.unlink()
    path.mkdir()
    assert_dropped(tier)
    assert not tier.store(KEYS[0], make_embedding())


def test_a_fifo_under_the_name_does_not_block(tier: Tier, path: Path) -> None:
    path.unlink()
    os.mkfifo(path)
    assert not tier.contains(KEYS[0])
    assert_dropped(tier)
    assert tier.store(KEYS[0], make_embedding())


@pytest.mark.parametrize("is_dangling", [False, True])
def test_a_symbolic_link_under_the_name_is_not_followed(
    tier: Tier, path: Path, tmp_path: Path, is_dangling: bool
) -> None:
    target = tmp_path / "target"
    path.rename(target)
    if is_dangling:
        target.unlink()
    path.symlink_to(target)
    assert_dropped(tier)
    assert target.exists() is not is_dangling
    assert tier.store(KEYS[0], make_embedding())
    assert not path.is_symlink()


def test_a_link_in_place_of_a_namespace_is_not_scanned(directory: Path, tmp_path: Path) -> None:
    make_tier(tmp_path / "other").store(KEYS[0], make_embedding())
    directory.mkdir()
    (directory / "0b").symlink_to(tmp_path / "other" / NAMESPACE)
    tier = make_tier(directory, max_bytes=0)
    tier.scan()
    assert tier.num_bytes == 0
    assert find_path(tmp_path / "other", KEYS[0]).exists()


def test_nothing_is_allocated_for_a_file_above_the_limit(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = make_tier(directory, max_bytes=1 << 50)
    path = find_path(directory, KEYS[0])
    path.parent.mkdir(parents=True)
    path.touch()
    os.truncate(path, 1 << 40)
    monkeypatch.setattr(vision_file, "_allocate", lambda num_bytes: pytest.fail("allocated"))
    assert_dropped(tier)


def test_a_file_that_shrinks_while_it_is_read_is_damage(
    tier: Tier, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def allocate(num_bytes: int) -> np.ndarray:
        os.truncate(path, num_bytes // 2)
        return np.empty(num_bytes, dtype=np.uint8)

    monkeypatch.setattr(vision_file, "_allocate", allocate)
    assert_dropped(tier)


def test_a_file_for_which_there_is_no_memory_is_a_miss_and_stays(
    tier: Tier, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(np, "empty", fail)
        assert tier.load(KEYS[0]) is None
    assert tier.counts.damaged == 0
    assert tier.load(KEYS[0]) is not None


# Directories that cannot be written.


def test_an_entry_that_does_not_fit_is_the_systems_error() -> None:
    with open("/dev/full", "wb", buffering=0) as file, pytest.raises(OSError) as caught:
        write_entry(file, NAMESPACE, KEYS[0], make_embedding())
    assert caught.value.errno == errno.ENOSPC


def test_an_entry_is_whole_although_the_system_writes_it_in_pieces() -> None:
    class Piecemeal(BytesIO):
        def write(self, data: Any) -> int:
            return super().write(bytes(data[:7]))

    file = Piecemeal()
    write_entry(file, NAMESPACE, KEYS[0], make_embedding())
    assert file.getvalue() == encode(make_embedding())


@dataclass
class FullDisk:
    """Lets half of every entry be written, then has no space."""

    def write(self, file: BytesIO, namespace: str, key: str, embedding: torch.Tensor) -> None:
        file.write(encode(embedding, key)[:300])
        raise OSError(errno.ENOSPC, "no space")


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    with monkeypatch.context() as patch:
        patch.setattr(vision_tier, "write_entry", FullDisk().write)
        yield patch


def test_a_full_disk_fails_the_store_and_leaves_nothing(
    full_disk: pytest.MonkeyPatch, tier: Tier, directory: Path
) -> None:
    assert not tier.store(KEYS[1], make_embedding())
    assert tier.counts.write_errors == 1
    assert tier.counts.bytes_written == 0
    assert [path for path in directory.rglob("*") if path.is_file()] == []


def test_a_full_disk_costs_the_oldest_entry_its_place(
    tier: Tier, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in KEYS[:3]:
        tier.store(key, make_embedding())
    with monkeypatch.context() as patch:
        patch.setattr(vision_tier, "write_entry", FullDisk().write)
        assert not tier.store(KEYS[3], make_embedding())
    assert [tier.contains(key) for key in KEYS[:3]] == [False, True, True]
    assert tier.store(KEYS[3], make_embedding())


def test_a_full_disk_is_logged_once_a_minute(
    full_disk: pytest.MonkeyPatch, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [0.0]
    tier = make_tier(directory, clock=lambda: clock[0])
    for clock[0], num_lines in [(0.0, 1), (30.0, 1), (59.0, 1), (61.0, 2), (62.0, 2)]:
        tier.store(KEYS[0], make_embedding())
        assert len(caplog.messages) == num_lines


def test_a_limit_on_file_sizes_fails_the_store(directory: Path) -> None:
    def check() -> bool:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        tier = make_tier(directory)
        is_large_stored = tier.store(KEYS[0], make_embedding(width=4000))
        return not is_large_stored and tier.store(KEYS[1], make_embedding())

    assert run_in_child(check)
    assert find_path(directory, KEYS[1]).exists()


def run_in_child(check: Callable[[], bool], *, is_nobody: bool = False) -> bool:
    """The result of `check` in a forked process, of a user whom permissions bind if asked for."""
    child = os.fork()
    if child == 0:
        try:
            if is_nobody and os.geteuid() == 0:
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            os._exit(0 if check() else 1)
        finally:
            os._exit(2)
    return os.waitpid(child, 0)[1] == 0


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A tier to be read and not written: `KEYS[0]` is whole, `KEYS[1]` is damaged."""
    parent = Path(tempfile.mkdtemp())
    directory = parent / "tier"
    tier = make_tier(directory)
    for key in KEYS[:2]:
        tier.store(key, make_embedding())
    os.truncate(find_path(directory, KEYS[1]), 100)
    parent.chmod(0o755)
    for path in directory.rglob("*.vision"):
        path.chmod(0o444)
    folders = [directory, *(path for path in directory.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    yield directory
    for folder in folders:
        folder.chmod(0o755)
    shutil.rmtree(parent)


def test_a_read_only_directory_is_read(read_only: Path) -> None:
    def check() -> bool:
        tier = make_tier(read_only)
        tier.scan()
        return tier.contains(KEYS[0]) and tier.load(KEYS[0]) is not None

    assert run_in_child(check, is_nobody=True)


def test_a_read_only_directory_is_not_written(read_only: Path) -> None:
    def check() -> bool:
        tier = make_tier(read_only)
        return not tier.store(KEYS[2], make_embedding()) and tier.counts.write_errors == 1

    assert run_in_child(check, is_nobody=True)


def test_a_damaged_file_that_cannot_be_removed_is_read_once(read_only: Path) -> None:
    def check() -> bool:
        tier = make_tier(read_only)
        is_missed = tier.load(KEYS[1]) is None and tier.load(KEYS[1]) is None
        return is_missed and not tier.contains(KEYS[1]) and tier.counts.damaged == 1

    assert run_in_child(check, is_nobody=True)


def test_entries_that_cannot_be_evicted_stop_stores(read_only: Path) -> None:
    def check() -> bool:
        tier = make_tier(read_only, max_bytes=700)
        tier.scan()
        return not tier.store(KEYS[2], make_embedding()) and tier.counts.evictions == 0

    assert run_in_child(check, is_nobody=True)


def test_a_file_that_may_not_be_read_is_a_miss_once_tried(read_only: Path) -> None:
    find_path(read_only, KEYS[0]).chmod(0)

    def check() -> bool:
        tier = make_tier(read_only)
        return tier.load(KEYS[0]) is None and not tier.contains(KEYS[0])

    assert run_in_child(check, is_nobody=True)


def test_a_repaired_file_is_read_again(
    tier: Tier, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1])

    def fail(*_: Any) -> None:
        raise OSError(errno.EROFS, "read-only")

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", fail)
        assert_dropped(tier)
    path.write_bytes(data)
    assert tier.contains(KEYS[0])
    assert tier.load(KEYS[0]) is not None


def test_a_vanished_directory_is_made_again(tier: Tier, path: Path, directory: Path) -> None:
    shutil.rmtree(directory)
    assert not tier.contains(KEYS[0])
    assert tier.load(KEYS[0]) is None
    assert tier.store(KEYS[1], make_embedding())
    assert tier.load(KEYS[1]) is not None
    assert directory.stat().st_mode & 0o777 == 0o700
    tier.scan()
    assert tier.num_bytes == find_path(directory, KEYS[1]).stat().st_size


def test_a_directory_that_vanishes_and_comes_back_as_a_link_is_off(
    tier: Tier, path: Path, directory: Path, tmp_path: Path
) -> None:
    directory.rename(tmp_path / "moved")
    directory.symlink_to(tmp_path / "moved")
    tier.scan()
    assert not tier.contains(KEYS[0])
    assert not tier.store(KEYS[1], make_embedding())


@pytest.mark.parametrize("place", ["/proc/no/such/place", "/dev/null/tier"])
def test_a_directory_that_cannot_be_made_is_all_misses(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    tier = make_tier(Path(place))
    tier.scan()
    for _ in range(3):
        assert not tier.store(KEYS[0], make_embedding())
        assert not tier.contains(KEYS[0])
        assert tier.load(KEYS[0]) is None
    assert tier.counts.write_errors == 3
    assert len(caplog.messages) <= 3


# Many processes.

NUM_PROCESSES = 3
WIDTH = 4000
SHARED_BYTES = 20 * (2 * WIDTH * 2 + vision_entry.OVERHEAD_BYTES)


def use_tier(directory: Path, seed: int) -> tuple[int, int, int]:
    """Load and store; embeddings that were wrong, files found damaged, and failed writes."""
    tier = make_tier(directory, SHARED_BYTES)
    source = random.Random(seed)
    num_wrong = 0
    for _ in range(1500):
        number = source.randrange(60)
        found = tier.load(KEYS[number]) if tier.contains(KEYS[number]) else None
        if found is None:
            tier.store(KEYS[number], make_embedding(number, WIDTH))
        else:
            num_wrong += not torch.equal(found, make_embedding(number, WIDTH))
    return num_wrong, tier.counts.damaged, tier.counts.write_errors


def store_for_ever(directory: Path, is_storing: Any) -> None:
    tier = make_tier(directory, 64 << 20)
    while True:
        for number, key in enumerate(KEYS):
            tier.store(key, make_embedding(number, 1 << 20))
            if number == 3:
                is_storing.set()


def list_files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def test_processes_share_a_directory(directory: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(NUM_PROCESSES) as pool:
        results = pool.starmap(use_tier, [(directory, seed) for seed in range(NUM_PROCESSES)])
    assert results == [(0, 0, 0)] * NUM_PROCESSES
    files = list_files(directory)
    assert all(path.suffix == ".vision" for path in files)
    # Each may have written a twentieth of the budget, and one entry, that the others do not know.
    in_flight = NUM_PROCESSES * (SHARED_BYTES // 20 + SHARED_BYTES // 20)
    assert sum(path.stat().st_size for path in files) <= SHARED_BYTES + in_flight
    tier = make_tier(directory, SHARED_BYTES)
    tier.scan()
    num_bytes = sum(path.stat().st_size for path in list_files(directory))
    assert num_bytes == tier.num_bytes <= SHARED_BYTES


def test_a_writer_that_is_killed_leaves_no_damage(directory: Path) -> None:
    context = multiprocessing.get_context("spawn")
    is_storing = context.Event()
    writer = context.Process(target=store_for_ever, args=(directory, is_storing))
    writer.start()
    assert is_storing.wait(WAIT_S)
    writer.kill()
    writer.join()
    tier = make_tier(directory, 64 << 20)
    found = [number for number, key in enumerate(KEYS) if tier.contains(key)]
    assert found
    for number in found:
        embedding = tier.load(KEYS[number])
        assert embedding is not None
        assert torch.equal(embedding, make_embedding(number, 1 << 20))
    for path in directory.rglob("*.tmp"):
        os.utime(path, (time.time() - 700, time.time() - 700))
    tier.scan()
    assert list(directory.rglob("*.tmp")) == []
