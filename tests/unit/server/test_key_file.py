import json
import os
import re
from pathlib import Path

import pytest

from server.access.key_file import (
    KEY_PREFIX,
    KeyEntry,
    KeyFileError,
    KeySet,
    hash_key,
    make_key,
    read_keys,
    write_keys,
)
from tests.api_keys import write_key_file

SECRET = "sk-qwen3vl-do-not-show"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def find_name(keys: KeySet, api_key: str) -> str | None:
    entry = keys.find(api_key)
    return None if entry is None else entry.name


def test_a_key_has_256_random_bits_and_a_prefix_that_scanners_can_find() -> None:
    first, second = make_key(), make_key()
    assert first != second
    assert re.fullmatch(re.escape(KEY_PREFIX) + r"[A-Za-z0-9_-]{43}", first)


def test_the_hash_is_plain_sha256() -> None:
    assert hash_key("abc") == (
        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_each_key_is_found_by_itself_alone(path: Path) -> None:
    keys, _ = read_keys(write_key_file(path, {"key": "a"}, {"key": "b"}, {"key": "c"}))
    assert [find_name(keys, key) for key in ("a", "b", "c")] == ["a", "b", "c"]
    for other in ("", "A", "aa", hash_key("a"), "d", "ключ"):
        assert keys.find(other) is None


def test_all_entries_are_compared_whichever_is_meant(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, _ = read_keys(write_key_file(path, {"key": "a"}, {"key": "b"}, {"key": "c"}))
    compared: list[bytes] = []

    def compare(given: bytes, known: bytes) -> bool:
        compared.append(known)
        return given == known

    monkeypatch.setattr("server.access.key_file.hmac.compare_digest", compare)
    for key in ("a", "b", "c", "d"):
        compared.clear()
        keys.find(key)
        assert len(compared) == 3


def test_an_expired_key_is_none_but_an_admin_is_still_known(path: Path) -> None:
    past, future = "2020-01-01T00:00:00Z", "2999-01-01T00:00:00+02:00"
    old = {"key": "old", "expires": past, "role": "admin"}
    keys, _ = read_keys(write_key_file(path, old, {"key": "new", "expires": future}))
    assert [find_name(keys, key) for key in ("old", "new")] == [None, "new"]
    assert keys.has_admin


def test_what_is_written_is_read_again(path: Path) -> None:
    entries = (
        KeyEntry(name="a", hash=hash_key("a"), role="admin", requests_per_minute=3),
        KeyEntry.model_validate(
            {"name": "b", "hash": hash_key("b"), "expires": "2030-01-31T00:00:00Z"}
        ),
    )
    write_keys(path, entries)
    assert read_keys(path)[0] == KeySet(entries)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["keys.json"]


def test_a_failed_write_leaves_the_file_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_key_file(path, {"key": "a"})
    before = path.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(KeyFileError, match="No space left"):
        write_keys(path, ())
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["keys.json"]


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_is_refused(path: Path, mode: int) -> None:
    with pytest.raises(KeyFileError, match="other users may write it"):
        read_keys(write_key_file(path, {"key": "a"}, mode=mode))


@pytest.mark.parametrize(("mode", "is_readable"), [(0o600, False), (0o640, True), (0o604, True)])
def test_a_file_that_others_can_read_is_told_apart(
    path: Path, mode: int, is_readable: bool
) -> None:
    assert read_keys(write_key_file(path, {"key": "a"}, mode=mode))[0].is_readable is is_readable


ENTRY = {"name": "a", "hash": hash_key("a")}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (SECRET, "is not JSON"),
        (json.dumps(SECRET), "should be an object"),
        ("[]", "should be an object"),
        ("{}", "keys: Field required"),
        (json.dumps({"keys": [ENTRY], SECRET: 1}), "has an unknown field"),
        (json.dumps({"keys": [{**ENTRY, SECRET: 1}]}), r"keys\[0\]: has an unknown field"),
        (json.dumps({"keys": [{**ENTRY, "hash": SECRET}]}), r"keys\[0\]\.hash: "),
        (json.dumps({"keys": [{**ENTRY, "name": f"{SECRET} "}]}), r"keys\[0\]\.name: "),
        (json.dumps({"keys": [{**ENTRY, "role": SECRET}]}), r"keys\[0\]\.role: "),
        (json.dumps({"keys": [{**ENTRY, "max_concurrent": 0}]}), r"keys\[0\]\.max_concurrent: "),
        (json.dumps({"keys": [{**ENTRY, "expires": "2030-01-01"}]}), r"keys\[0\]\.expires: "),
        (json.dumps({"keys": [ENTRY, {**ENTRY, "name": "b"}]}), "two keys have the same hash"),
        (json.dumps({"keys": [ENTRY, {**ENTRY, "hash": hash_key("b")}]}), "the same name"),
        (" " * 1024**2 + "{}", "is larger than"),
    ],
)
def test_a_broken_file_is_named_and_nothing_in_it(path: Path, content: str, reason: str) -> None:
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match=reason) as caught:
        read_keys(path)
    assert str(path) in str(caught.value)
    assert SECRET not in str(caught.value) and ENTRY["hash"] not in str(caught.value)


def test_a_missing_file_is_named(path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"keys\.json: cannot be read: No such file"):
        read_keys(path)
