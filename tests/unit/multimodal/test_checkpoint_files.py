"""A file that a checkpoint does not have is told apart from one that cannot be fetched."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub.errors import (
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)

from multimodal import checkpoint_files
from multimodal.checkpoint_files import read_checkpoint_json
from multimodal.preprocessor_config import load_preprocessor_config

NOT_FOUND = httpx.Response(404, request=httpx.Request("HEAD", "https://hub.test/"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> "FakeHub":
    hub = FakeHub()
    monkeypatch.setattr(checkpoint_files, "hf_hub_download", hub.download)
    monkeypatch.setattr(checkpoint_files, "is_offline_mode", lambda: hub.is_offline)
    return hub


class FakeHub:
    """Answers every download with `answer`, or raises it."""

    answer: str | Exception
    is_offline = False
    revision: str | None = None

    def download(self, model: str, name: str, revision: str | None) -> str:
        self.revision = revision
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_file_of_a_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"name": "ä"}', encoding="utf-8")
    assert read_checkpoint_json(str(tmp_path), "a.json") == {"name": "ä"}


def test_file_that_a_folder_has_not_is_none_without_asking_the_hub(
    tmp_path: Path, hub: FakeHub
) -> None:
    hub.answer = AssertionError("the hub was asked")
    assert read_checkpoint_json(str(tmp_path), "a.json") is None


def test_file_of_a_repository_is_read_at_its_revision(tmp_path: Path, hub: FakeHub) -> None:
    path = tmp_path / "cached"
    path.write_text("{}")
    hub.answer = str(path)
    assert read_checkpoint_json("owner/name", "a.json", "v1") == {}
    assert hub.revision == "v1"


def test_file_that_a_repository_has_not_is_none(hub: FakeHub) -> None:
    hub.answer = RemoteEntryNotFoundError("no such file", response=NOT_FOUND)
    assert read_checkpoint_json("owner/name", "a.json") is None


@pytest.mark.parametrize(
    "failure",
    [
        LocalEntryNotFoundError("no connection"),
        RepositoryNotFoundError("no such repository", response=NOT_FOUND),
    ],
)
def test_failed_connection_does_not_look_like_a_missing_file(
    hub: FakeHub, failure: Exception
) -> None:
    hub.answer = failure
    with pytest.raises(type(failure)):
        read_checkpoint_json("owner/name", "a.json")
    with pytest.raises(type(failure)):
        load_preprocessor_config("owner/name")


def test_file_that_is_not_in_the_cache_is_none_in_offline_mode(hub: FakeHub) -> None:
    hub.answer, hub.is_offline = LocalEntryNotFoundError("not in the cache"), True
    assert read_checkpoint_json("owner/name", "a.json") is None


def test_offline_mode_is_hugging_faces_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def download(model: str, name: str, revision: Any) -> str:
        return original(model, name, revision=revision, cache_dir=tmp_path)

    original = checkpoint_files.hf_hub_download
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(checkpoint_files, "hf_hub_download", download)
    assert read_checkpoint_json("owner/name", "a.json") is None
