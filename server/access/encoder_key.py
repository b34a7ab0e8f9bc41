"""The API key that a language process shows to its encoder process."""

import re
from pathlib import Path

from server.settings import SettingsError

_MAX_BYTES = 4096
_KEY = re.compile(r"[!-~]+")  # what a header can hold: visible ASCII


def read_encoder_key(path: Path | None) -> str | None:
    """The one line of the file. Raises: SettingsError, without anything of it."""
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES).decode("ascii", "replace").strip()
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise SettingsError(f"engine.encoder_key_file: {message}") from None
    if not _KEY.fullmatch(text):
        raise SettingsError(f"engine.encoder_key_file: {path} must hold one API key")
    return text
