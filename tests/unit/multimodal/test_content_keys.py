from typing import Any

import numpy as np
import pytest

from multimodal.keys import IdentityKind, array_digest, bytes_digest, content_key

DEFAULTS: dict[str, Any] = {
    "kind": "video",
    "identity": ("aa", 1, 2),
    "height": 64,
    "width": 96,
    "patch_size": 16,
    "merge_size": 2,
    "namespace": "weights",
}


def make_key(**changes: Any) -> str:
    arguments = DEFAULTS | changes
    kind: IdentityKind = arguments.pop("kind")
    identity = arguments.pop("identity")
    return content_key(kind, identity, **arguments)


def test_key_is_64_hex_digits() -> None:
    key = make_key()
    assert len(key) == 64
    assert set(key) <= set("0123456789abcdef")


def test_key_is_stable() -> None:
    assert make_key() == make_key()


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "frames"},
        {"identity": ("ab", 1, 2)},
        {"identity": ("aa", 1, 1)},
        {"identity": ("aa", 12)},
        {"identity": ("aa", "1", "2")},
        {"height": 96, "width": 64},
        {"patch_size": 14},
        {"merge_size": 1},
        {"namespace": "other weights"},
    ],
)
def test_key_depends_on(change: dict[str, Any]) -> None:
    assert make_key(**change) != make_key()


def test_a_namespace_cannot_imitate_another_field() -> None:
    assert make_key(namespace='x",1') != make_key(namespace="x")
    assert make_key(identity=("a", "b,c")) != make_key(identity=("a,b", "c"))


def test_preprocessing_version_changes_every_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = make_key()
    monkeypatch.setattr("multimodal.keys.PREPROCESSING_VERSION", -1)
    assert make_key() != before


def test_equal_bytes_of_another_shape_have_another_digest() -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    assert array_digest(pixels) != array_digest(pixels.reshape(6, 4, 3))
    assert array_digest(pixels) == array_digest(pixels.copy())


def test_array_and_file_digests_are_apart() -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    assert array_digest(pixels) != bytes_digest(pixels.tobytes())


def test_array_digest_reads_views_in_their_own_order() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert array_digest(pixels[:, ::-1]) == array_digest(pixels[:, ::-1].copy())
    assert array_digest(pixels[:, ::-1]) != array_digest(pixels)
