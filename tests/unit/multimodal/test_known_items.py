from pathlib import Path

import pytest
import torch

from multimodal import known_items
from multimodal.items import PlacedItem, VisualItem
from multimodal.known_items import AllKnown, KnownItems
from multimodal.vision_tier import Tier
from multimodal.vision_tiers import VisionTiers

KEYS = [f"{number:064x}" for number in range(4)]


def placed(key: str, *, with_patches: bool = True, offset: int = 0) -> PlacedItem:
    patches = torch.zeros(16, 768, dtype=torch.uint8) if with_patches else None
    return PlacedItem(VisualItem("image", key, 4, 4, patches), offset, 4)


def has_patches(known: KnownItems, *items: PlacedItem) -> list[bool]:
    return [sent.item.patches is not None for sent in known.submit(items)]


def test_patches_are_sent_the_first_time_only() -> None:
    known = KnownItems()
    assert has_patches(known, placed(KEYS[0])) == [True]
    assert has_patches(known, placed(KEYS[0]), placed(KEYS[1])) == [False, True]


def test_an_item_that_a_request_has_twice_is_sent_once() -> None:
    assert has_patches(KnownItems(), placed(KEYS[0]), placed(KEYS[0], offset=9)) == [True, False]


def test_all_else_of_an_item_is_sent_as_it_is() -> None:
    known = KnownItems()
    first = placed(KEYS[0], offset=7)
    assert known.submit([first]) == (first,)
    (second,) = known.submit([first])
    assert second == placed(KEYS[0], with_patches=False, offset=7)
    assert first.item.patches is not None


def test_an_item_without_patches_is_not_known_by_being_sent() -> None:
    known = KnownItems()
    assert has_patches(known, placed(KEYS[0], with_patches=False)) == [False]
    assert not known.was_submitted(KEYS[0])
    assert has_patches(known, placed(KEYS[0])) == [True]


def test_an_item_is_known_once_it_was_sent_with_its_patches() -> None:
    known = KnownItems()
    assert not known.was_submitted(KEYS[0])
    known.submit([placed(KEYS[0])])
    assert known.was_submitted(KEYS[0])
    assert not known.was_submitted(KEYS[1])


def test_a_forgotten_item_is_sent_with_its_patches_again() -> None:
    known = KnownItems()
    known.submit([placed(KEYS[0]), placed(KEYS[1])])
    known.forget(KEYS[0])
    assert not known.was_submitted(KEYS[0])
    assert has_patches(known, placed(KEYS[0]), placed(KEYS[1])) == [True, False]


def test_what_is_not_known_can_be_forgotten() -> None:
    KnownItems().forget(KEYS[0])


def test_the_item_not_asked_about_for_longest_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_items, "_MAX_SUBMITTED", 2)
    known = KnownItems()
    known.submit([placed(KEYS[0]), placed(KEYS[1])])
    assert known.was_submitted(KEYS[0])
    known.submit([placed(KEYS[2])])
    assert [known.was_submitted(key) for key in KEYS[:3]] == [True, False, True]


def test_without_tiers_there_is_nowhere_else_to_look() -> None:
    assert not KnownItems().has_tiers


def test_items_are_found_in_the_tiers(tmp_path: Path) -> None:
    tier = Tier("host", tmp_path / "host", "0a" * 32, 1 << 20, fsync=False)
    tier.store(KEYS[1], torch.zeros(2, 8))
    known = KnownItems(VisionTiers([tier]))
    assert known.has_tiers
    assert known.find_in_tiers(KEYS) == {KEYS[1]}
    assert not known.was_submitted(KEYS[1])


def test_an_engine_without_a_vision_tower_is_never_sent_patches() -> None:
    known = AllKnown()
    assert known.was_submitted(KEYS[0])
    assert has_patches(known, placed(KEYS[0]), placed(KEYS[1])) == [False, False]
    known.forget(KEYS[0])
    assert known.was_submitted(KEYS[0])


def test_items_that_are_all_forgotten_are_sent_with_their_patches_again() -> None:
    known = KnownItems()
    known.submit([placed(KEYS[0]), placed(KEYS[1])])
    known.forget_all()
    assert has_patches(known, placed(KEYS[0]), placed(KEYS[1])) == [True, True]
