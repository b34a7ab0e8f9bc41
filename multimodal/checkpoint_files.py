"""The JSON files that stand beside a checkpoint's weights, in a folder or on Hugging Face."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, is_offline_mode
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError


def read_checkpoint_json(
    model: str, name: str, revision: str | None = None
) -> dict[str, Any] | None:
    """A JSON file of a checkpoint, or None if the checkpoint has no such file.

    Args:
        model: a local folder or a Hugging Face repository name.
    Raises: OSError if the file may exist but can be neither fetched nor found in the local cache.
        In Hugging Face's offline mode a file that is not in the cache counts as missing.
    """
    path = Path(model) / name if Path(model).is_dir() else _download(model, name, revision)
    if path is None or not path.is_file():
        return None
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _download(model: str, name: str, revision: str | None) -> Path | None:
    """transformers' `cached_file` has one answer for a missing file and a failed connection."""
    try:
        return Path(hf_hub_download(model, name, revision=revision))
    except LocalEntryNotFoundError:  # the connection failed, or none may be made
        if is_offline_mode():
            return None
        raise
    except EntryNotFoundError:
        return None
