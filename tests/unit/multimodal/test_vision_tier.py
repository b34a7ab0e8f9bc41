import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from multimodal.decayed_rate import DecayedRate
from multimodal.private_directory import check_private
from multimodal.vision_entry import OVERHEAD_BYTES
from multimodal.vision_tier import Tier, TierCounts

NAMESPACE, OTHER_NAMESPACE = "0a" * 16, "0b" * 16
KEYS = [f"{number:064x}" for number in range(0x1000, 0x1040)]
ENTRY_BYTES = 64 + OVERHEAD_BYTES
LONG_AGO = 1_000_000_000


def make_embedding(number: int = 0) -> torch.Tensor:
    return torch.full((2, 16), number, dtype=torch.bfloat16)


def make_tier(
    directory: Path,
    max_entries: int = 100,
    namespace: str = NAMESPACE,
    clock: Callable[[], float] = time.monotonic,
) -> Tier:
    return Tier("host", directory, namespace, max_entries * ENTRY_BYTES, fsync=False, clock=clock)


def find_path(directory: Path, key: str, namespace: str = NAMESPACE) -> Path:
    return directory / namespace / key[:2] / f"{key}.vision"


def set_age(directory: Path, ages: dict[str, int]) -> None:
    """How long ago entries were used, in seconds before a day long gone."""
    for key, age_s in ages.items():
        os.utime(find_path(directory, key), (LONG_AGO, LONG_AGO - age_s))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "tier"


@pytest.fixture
def tier(directory: Path) -> Tier:
    return make_tier(directory)


def test_what_is_stored_is_contained_and_loaded(tier: Tier) -> None:
    assert tier.store(KEYS[0], make_embedding(7))
    assert tier.contains(KEYS[0])
    found = tier.load(KEYS[0])
    assert found is not None
    assert torch.equal(found, make_embedding(7))


def test_what_is_not_stored_is_a_miss(tier: Tier) -> None:
    assert not tier.contains(KEYS[0])
    assert tier.load(KEYS[0]) is None
    assert tier.counts == TierCounts(misses=1)


def test_counts_tell_what_was_done(tier: Tier) -> None:
    tier.store(KEYS[0], make_embedding())
    tier.load(KEYS[0])
    tier.load(KEYS[1])
    expected = TierCounts(hits=1, misses=1, bytes_read=ENTRY_BYTES, bytes_written=ENTRY_BYTES)
    assert tier.counts == expected
    assert tier.num_bytes == ENTRY_BYTES


def test_an_entry_is_written_once(tier: Tier, directory: Path) -> None:
    tier.store(KEYS[0], make_embedding(1))
    inode = find_path(directory, KEYS[0]).stat().st_ino
    assert tier.store(KEYS[0], make_embedding(2))
    assert find_path(directory, KEYS[0]).stat().st_ino == inode
    assert tier.counts.bytes_written == ENTRY_BYTES


@pytest.mark.parametrize(
    "key", ["", "a", "../../etc/passwd", "AB" * 32, "0a\n", "0a/0b", "0a" * 65, "\x00", "٣٣"]
)
def test_a_key_that_is_not_hex_digits_is_a_miss(tier: Tier, directory: Path, key: str) -> None:
    assert not tier.store(key, make_embedding())
    assert not tier.contains(key)
    assert tier.load(key) is None
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("namespace", ["", "..", "a/b", "ABCD"])
def test_a_namespace_that_is_not_hex_digits_is_refused(directory: Path, namespace: str) -> None:
    with pytest.raises(ValueError, match="namespace"):
        make_tier(directory, namespace=namespace)


def test_a_new_process_finds_what_another_stored(tier: Tier, directory: Path) -> None:
    tier.store(KEYS[0], make_embedding(3))
    other = make_tier(directory)
    assert other.contains(KEYS[0])
    assert other.load(KEYS[0]) is not None


def test_nothing_temporary_is_left(tier: Tier, directory: Path) -> None:
    tier.store(KEYS[0], make_embedding())
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert files == [find_path(directory, KEYS[0])]


def test_the_oldest_entries_are_evicted(directory: Path) -> None:
    tier = make_tier(directory, max_entries=3)
    for key in KEYS[:5]:
        assert tier.store(key, make_embedding())
    assert [tier.contains(key) for key in KEYS[:5]] == [False, False, True, True, True]
    assert tier.counts.evictions == 2
    assert tier.num_bytes == 3 * ENTRY_BYTES


def test_a_load_is_a_use(directory: Path) -> None:
    tier = make_tier(directory, max_entries=3)
    for key in KEYS[:3]:
        tier.store(key, make_embedding())
    set_age(directory, {KEYS[0]: 30, KEYS[1]: 20, KEYS[2]: 10})
    tier.load(KEYS[0])
    tier.store(KEYS[3], make_embedding())
    assert [tier.contains(key) for key in KEYS[:4]] == [True, False, True, True]


def test_storing_what_is_there_is_a_use(directory: Path) -> None:
    tier = make_tier(directory, max_entries=2)
    for key in KEYS[:2]:
        tier.store(key, make_embedding())
    set_age(directory, {KEYS[0]: 30, KEYS[1]: 20})
    tier.store(KEYS[0], make_embedding())
    tier.store(KEYS[2], make_embedding())
    assert [tier.contains(key) for key in KEYS[:3]] == [True, False, True]


def test_a_use_by_another_process_counts(directory: Path) -> None:
    tier = make_tier(directory, max_entries=20, clock=lambda: 0.0)
    for key in KEYS[:20]:
        tier.store(key, make_embedding())
    set_age(directory, {key: 100 - position for position, key in enumerate(KEYS[:20])})
    tier.scan()
    make_tier(directory).load(KEYS[0])
    tier.store(KEYS[20], make_embedding())
    assert tier.contains(KEYS[0])
    assert not tier.contains(KEYS[1])
    assert tier.counts.evictions == 1


def test_an_entry_that_another_process_evicted_is_not_evicted_again(directory: Path) -> None:
    tier = make_tier(directory, max_entries=20, clock=lambda: 0.0)
    for key in KEYS[:20]:
        tier.store(key, make_embedding())
    tier.scan()
    find_path(directory, KEYS[0]).unlink()
    tier.store(KEYS[20], make_embedding())
    assert tier.counts.evictions == 0
    assert tier.num_bytes == 20 * ENTRY_BYTES


def test_an_entry_above_the_budget_is_not_stored(directory: Path) -> None:
    tier = make_tier(directory, max_entries=2)
    tier.store(KEYS[0], make_embedding())
    assert not tier.store(KEYS[1], torch.zeros(1000, 100))
    assert tier.contains(KEYS[0])
    assert tier.counts.evictions == 0


def test_a_scan_evicts_down_to_the_budget_oldest_first(directory: Path) -> None:
    tier = make_tier(directory)
    for key in KEYS[:4]:
        tier.store(key, make_embedding())
    set_age(directory, {KEYS[0]: 5, KEYS[1]: 50, KEYS[2]: 10, KEYS[3]: 40})
    small = make_tier(directory, max_entries=2)
    small.scan()
    assert [small.contains(key) for key in KEYS[:4]] == [True, False, True, False]
    assert small.num_bytes == 2 * ENTRY_BYTES


def test_every_namespace_counts_for_the_budget(directory: Path) -> None:
    make_tier(directory, namespace=OTHER_NAMESPACE).store(KEYS[0], make_embedding())
    os.utime(find_path(directory, KEYS[0], OTHER_NAMESPACE), (LONG_AGO, LONG_AGO))
    tier = make_tier(directory, max_entries=2)
    tier.scan()
    assert tier.num_bytes == ENTRY_BYTES
    tier.store(KEYS[1], make_embedding())
    tier.store(KEYS[2], make_embedding())
    assert not find_path(directory, KEYS[0], OTHER_NAMESPACE).exists()
    assert tier.contains(KEYS[1])


def test_namespaces_do_not_see_each_other(tier: Tier, directory: Path) -> None:
    other = make_tier(directory, namespace=OTHER_NAMESPACE)
    tier.store(KEYS[0], make_embedding(1))
    assert not other.contains(KEYS[0])
    assert other.load(KEYS[0]) is None
    other.store(KEYS[0], make_embedding(2))
    found = tier.load(KEYS[0])
    assert found is not None
    assert torch.equal(found, make_embedding(1))


def test_a_scan_removes_only_old_temporary_files(tier: Tier, directory: Path) -> None:
    tier.store(KEYS[0], make_embedding())
    folder = find_path(directory, KEYS[0]).parent
    old, new = folder / ".old.tmp", folder / ".new.tmp"
    for path in (old, new):
        path.write_bytes(bytes(100))
    os.utime(old, (time.time() - 700, time.time() - 700))
    tier.scan()
    assert not old.exists()
    assert new.exists()
    assert tier.num_bytes == ENTRY_BYTES


def test_a_scan_leaves_foreign_files_alone(directory: Path) -> None:
    tier = make_tier(directory, max_entries=0)
    foreign = [
        directory / "notes.txt",
        directory / NAMESPACE / "10" / "notes.txt",
        directory / NAMESPACE / "10" / "NOT HEX.vision",
        directory / "not hex" / "10" / f"{KEYS[0]}.vision",
    ]
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(100))
    tier.scan()
    assert all(path.exists() for path in foreign)
    assert tier.num_bytes == 0


def test_a_store_long_after_the_last_scan_scans_again(directory: Path) -> None:
    clock = [0.0]
    tier = make_tier(directory, clock=lambda: clock[0])
    tier.scan()
    make_tier(directory).store(KEYS[0], make_embedding())
    clock[0] = 59.0
    tier.store(KEYS[1], make_embedding())
    assert tier.num_bytes == ENTRY_BYTES
    clock[0] = 61.0
    tier.store(KEYS[2], make_embedding())
    assert tier.num_bytes == 3 * ENTRY_BYTES


def test_a_store_after_many_written_bytes_scans_again(directory: Path) -> None:
    tier = make_tier(directory, clock=lambda: 0.0)
    tier.scan()
    make_tier(directory).store(KEYS[0], make_embedding())
    for key in KEYS[1:7]:  # the budget is 100 entries
        tier.store(key, make_embedding())
    assert tier.num_bytes == 6 * ENTRY_BYTES
    tier.store(KEYS[7], make_embedding())
    assert tier.num_bytes == 8 * ENTRY_BYTES


def test_the_load_rate_is_known_after_eight_loads(tier: Tier) -> None:
    tier.store(KEYS[0], make_embedding())
    for _ in range(7):
        tier.load(KEYS[0])
    assert tier.load_bytes_per_s is None
    tier.load(KEYS[0])
    assert tier.load_bytes_per_s is not None
    assert tier.load_bytes_per_s > 0


def test_misses_are_not_part_of_the_load_rate(tier: Tier) -> None:
    for _ in range(10):
        tier.load(KEYS[0])
    assert tier.load_bytes_per_s is None


def test_a_rate_weighs_bytes_not_loads() -> None:
    rate = DecayedRate()
    for _ in range(100):
        rate.observe(1, 1.0)
        rate.observe(99, 1.0)
    assert rate.bytes_per_s == pytest.approx(50, rel=0.1)


def test_a_rate_follows_the_recent_past() -> None:
    rate = DecayedRate()
    for _ in range(100):
        rate.observe(100, 1.0)
    for _ in range(40):
        rate.observe(1000, 1.0)
    assert rate.bytes_per_s == pytest.approx(1000, rel=0.05)


def test_a_missing_directory_is_made_for_this_user_alone(tier: Tier, directory: Path) -> None:
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert check_private(directory) is None


@pytest.fixture
def open_parent(tmp_path: Path) -> Path:
    """A directory like /dev/shm."""
    parent = tmp_path / "open"
    parent.mkdir()
    parent.chmod(0o1777)
    return parent


@pytest.mark.parametrize("mode", [0o720, 0o702])
def test_among_everybodys_files_others_may_not_write(open_parent: Path, mode: int) -> None:
    (open_parent / "tier").mkdir()
    (open_parent / "tier").chmod(mode)
    assert check_private(open_parent / "tier") == "other users may write to it"


def test_among_everybodys_files_the_owner_must_be_this_user(
    open_parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (open_parent / "tier").mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert check_private(open_parent / "tier") == "it belongs to another user"


def test_a_group_may_share_a_directory_elsewhere(directory: Path) -> None:
    directory.mkdir()
    directory.chmod(0o770)
    assert check_private(directory) is None


@pytest.mark.parametrize("parent_mode", [0o755, 0o1777])
def test_a_symbolic_link_is_not_trusted(tmp_path: Path, parent_mode: int) -> None:
    parent = tmp_path / "parent"
    parent.mkdir()
    parent.chmod(parent_mode)
    (tmp_path / "target").mkdir()
    (parent / "tier").symlink_to(tmp_path / "target")
    assert check_private(parent / "tier") is not None


def test_a_tier_that_cannot_be_trusted_is_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    make_tier(target).store(KEYS[0], make_embedding())
    link.symlink_to(target)
    tier = make_tier(link)
    tier.scan()
    assert not tier.contains(KEYS[0])
    assert tier.load(KEYS[0]) is None
    assert not tier.store(KEYS[1], make_embedding())
    assert not find_path(target, KEYS[1]).exists()
    assert len(caplog.messages) == 1


def test_clearing_removes_the_entries_of_this_namespace_whoever_wrote_them(
    tier: Tier, directory: Path
) -> None:
    other = make_tier(directory, namespace=OTHER_NAMESPACE)
    tier.store(KEYS[0], make_embedding())
    make_tier(directory).store(KEYS[1], make_embedding())
    other.store(KEYS[0], make_embedding())
    tier.clear()
    assert not tier.contains(KEYS[0]) and not tier.contains(KEYS[1])
    assert other.contains(KEYS[0])
    assert tier.num_bytes == ENTRY_BYTES  # of the other namespace
    assert tier.counts.evictions == 0
    assert tier.store(KEYS[0], make_embedding())


def test_what_another_process_cleared_is_a_miss(tier: Tier, directory: Path) -> None:
    tier.store(KEYS[0], make_embedding())
    make_tier(directory).clear()
    assert tier.load(KEYS[0]) is None
    assert tier.num_bytes == 0


def test_a_tier_that_cannot_be_trusted_is_not_cleared(open_parent: Path) -> None:
    directory = open_parent / "tier"
    make_tier(directory).store(KEYS[0], make_embedding())
    directory.chmod(0o777)
    make_tier(directory).clear()
    assert find_path(directory, KEYS[0]).exists()
