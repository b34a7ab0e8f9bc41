import os
import stat
from pathlib import Path

import pytest
import torch

from multimodal import patch_handover
from multimodal.patch_handover import PatchHandover

KEY, OTHER_KEY = "a" * 64, "b" * 64


def make_patches(number: int = 0) -> torch.Tensor:
    return torch.full((16, 768), number, dtype=torch.uint8)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "run" / "patches" / "0"


@pytest.fixture
def handover(directory: Path) -> PatchHandover:
    return PatchHandover(str(directory.parent))


def test_what_was_put_can_be_taken_by_another_process(
    handover: PatchHandover, directory: Path
) -> None:
    patches = torch.arange(16 * 768).view(16, 768).to(torch.uint8)
    handover.put(KEY, patches)
    taken = PatchHandover(str(directory.parent)).take(KEY)
    assert taken is not None
    assert taken.dtype == torch.uint8
    assert torch.equal(taken, patches)


def test_patches_are_taken_once(handover: PatchHandover, directory: Path) -> None:
    handover.put(KEY, make_patches())
    assert handover.take(KEY) is not None
    assert handover.take(KEY) is None
    assert os.listdir(directory) == []


def test_there_is_nothing_to_take_before_anything_was_put(handover: PatchHandover) -> None:
    assert handover.take(KEY) is None


def test_items_are_kept_apart(handover: PatchHandover) -> None:
    handover.put(KEY, make_patches(1))
    handover.put(OTHER_KEY, make_patches(2))
    taken = handover.take(OTHER_KEY)
    assert taken is not None
    assert torch.equal(taken, make_patches(2))
    assert handover.take(KEY) is not None


def test_patches_may_be_put_again(handover: PatchHandover) -> None:
    handover.put(KEY, make_patches(1))
    handover.put(KEY, make_patches(2))
    taken = handover.take(KEY)
    assert taken is not None
    assert torch.equal(taken, make_patches(2))


def test_only_this_user_can_read_the_patches(handover: PatchHandover, directory: Path) -> None:
    handover.put(KEY, make_patches())
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / KEY).stat().st_mode) == 0o600


def test_a_write_that_fails_leaves_nothing(
    handover: PatchHandover, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise OSError("no space is left")

    monkeypatch.setattr(patch_handover, "write_entry", fail)
    with pytest.raises(OSError, match="no space is left"):
        handover.put(KEY, make_patches())
    assert os.listdir(directory) == []


def test_damaged_patches_are_not_taken_and_can_be_put_again(
    handover: PatchHandover, directory: Path
) -> None:
    handover.put(KEY, make_patches(1))
    damaged = bytearray((directory / KEY).read_bytes())
    damaged[600] ^= 1
    (directory / KEY).write_bytes(damaged)
    assert handover.take(KEY) is None
    handover.put(KEY, make_patches(2))
    taken = handover.take(KEY)
    assert taken is not None
    assert torch.equal(taken, make_patches(2))


def test_patches_of_another_item_are_not_taken(handover: PatchHandover, directory: Path) -> None:
    handover.put(OTHER_KEY, make_patches())
    os.rename(directory / OTHER_KEY, directory / KEY)
    assert handover.take(KEY) is None
