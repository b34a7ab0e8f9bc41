"""Files of API keys for tests."""

import json
from pathlib import Path
from typing import Any

from server.access.key_file import hash_key


def write_key_file(path: Path, *entries: dict[str, Any], mode: int = 0o600) -> Path:
    """`key` of an entry is the key itself, and its name."""
    path.write_text(json.dumps({"keys": [_hide_key(**entry) for entry in entries]}))
    path.chmod(mode)
    return path


def bearer(api_key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {api_key}"}


def _hide_key(key: str, **fields: Any) -> dict[str, Any]:
    return {"name": key, "hash": hash_key(key), **fields}
