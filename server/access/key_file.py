"""The file of API keys: what stands in it, how it is read and written.

The keys themselves are not in it. They are 256 random bits, which nobody can guess, so one plain
hash is enough to hide them: a slow one, as passwords need, would only make each request slower.
"""

import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkstemp
from typing import Annotated, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
)

KEY_PREFIX = "sk-qwen3vl-"
NAME_PATTERN = r"^[A-Za-z0-9_.@-]{1,64}$"
_MAX_FILE_BYTES = 1024**2
_KEY_BYTES = 32
_OTHERS_MAY_READ = stat.S_IRGRP | stat.S_IROTH
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_Limit = Annotated[int, Field(ge=1)] | None

Stamp = tuple[int, ...]


class KeyFileError(Exception):
    """The message names the file and the place in it, and nothing that stands in it."""


class KeyEntry(BaseModel):
    """One API key. A limit of None is the one of the settings, if there is one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
    hash: Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
    role: Literal["user", "admin"] = "user"
    requests_per_minute: _Limit = None
    tokens_per_minute: _Limit = None
    max_concurrent: _Limit = None
    expires: AwareDatetime | None = None

    @property
    def is_admin(self) -> bool:
        return self.role == "admin"

    @property
    def has_expired(self) -> bool:
        return self.expires is not None and self.expires <= datetime.now(UTC)


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[KeyEntry, ...]

    @field_validator("keys")
    @classmethod
    def _check_unique(cls, keys: tuple[KeyEntry, ...]) -> tuple[KeyEntry, ...]:
        for what in ("name", "hash"):
            if len({getattr(entry, what) for entry in keys}) < len(keys):
                raise ValueError(f"two keys have the same {what}")
        return keys


@dataclass(frozen=True, slots=True)
class KeySet:
    """All keys of a file. `is_readable`: by users other than its owner."""

    entries: tuple[KeyEntry, ...] = ()
    is_readable: bool = False

    @property
    def has_admin(self) -> bool:
        """One that has expired counts: what needed it yesterday is not open to all today."""
        return any(entry.is_admin for entry in self.entries)

    def find(self, api_key: str) -> KeyEntry | None:
        """The entry of a key that has not expired; the time it takes tells nothing of the keys."""
        given, found = hash_key(api_key).encode(), None
        for entry in self.entries:
            if hmac.compare_digest(given, entry.hash.encode()):
                found = entry
        return None if found is None or found.has_expired else found


def hash_key(api_key: str) -> str:
    """As the file has it."""
    return f"sha256:{hashlib.sha256(api_key.encode()).hexdigest()}"


def make_key() -> str:
    """A new key, of 256 random bits."""
    return KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)


def read_stamp(path: Path) -> Stamp:
    """Another one whenever the file has changed, its mode included. Raises: OSError."""
    return _stamp_of(path.stat())


def read_keys(path: Path) -> tuple[KeySet, Stamp]:
    """Raises: KeyFileError."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read: {error.strerror}") from None
    if status.st_mode & _OTHERS_MAY_WRITE:
        raise KeyFileError(f"{path}: other users may write it: `chmod go-w` it")
    if len(content) > _MAX_FILE_BYTES:
        raise KeyFileError(f"{path}: is larger than {_MAX_FILE_BYTES} bytes")
    entries = _parse(path, content)
    return KeySet(entries, bool(status.st_mode & _OTHERS_MAY_READ)), _stamp_of(status)


@contextmanager
def locked(path: Path) -> Iterator[Path]:
    """The file behind `path`, for one process at a time that reads and writes it.

    Raises: KeyFileError.
    """
    path = path.resolve()
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise KeyFileError(f"{path.parent}: {error.strerror}") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield path
    finally:
        os.close(folder)


def write_keys(path: Path, entries: tuple[KeyEntry, ...]) -> None:
    """All at once, for its owner's eyes; a file that is there keeps its owner.

    Raises: KeyFileError.
    """
    keys = [entry.model_dump(mode="json", exclude_defaults=True) for entry in entries]
    text = json.dumps({"keys": keys}, indent=2) + "\n"
    try:
        _replace(path, text.encode())
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be written: {error.strerror}") from None


def _replace(path: Path, content: bytes) -> None:
    descriptor, temporary = mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            with suppress(FileNotFoundError):
                status = path.stat()
                if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(descriptor, status.st_uid, status.st_gid)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _parse(path: Path, content: bytes) -> tuple[KeyEntry, ...]:
    """Raises: KeyFileError."""
    try:
        return _Document.model_validate_json(content).keys
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if fault["type"] == "json_invalid":
        line = re.search(r"line \d+", fault["msg"])
        raise KeyFileError(f"{path}: is not JSON{f' ({line[0]})' if line else ''}")
    if fault["type"] == "extra_forbidden":
        raise KeyFileError(f"{path}: {_name(fault['loc'][:-1])}has an unknown field")
    message = fault["msg"].removeprefix("Value error, ")
    raise KeyFileError(f"{path}: {_name(fault['loc'])}{message}")


def _name(loc: tuple[int | str, ...]) -> str:
    """`keys[3].name: `."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    name = "".join(parts).removeprefix(".")
    return f"{name}: " if name else ""


def _stamp_of(status: os.stat_result) -> Stamp:
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size)
