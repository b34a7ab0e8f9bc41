"""The directory of a tier as a tool sees it: all namespaces, whatever server wrote them.

A server may use the directory meanwhile: entries come and go, and are only ever unlinked here.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from multimodal.vision_file import MAX_ENTRY_BYTES, DamagedEntry, Form, read_form, read_verified
from multimodal.vision_index import SUFFIX, walk


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """One file. `used_at` is the time of its last use, in seconds since 1970."""

    path: str
    namespace: str
    key: str
    num_bytes: int
    used_at: float


def list_entries(directory: Path) -> Iterator[StoredEntry]:
    """Every entry; removes temporary files that no writer has touched for ten minutes."""
    prefix = f"{directory}{os.sep}"
    for name, file in walk(prefix):
        namespace, _, base = name.split("/")
        yield StoredEntry(
            prefix + name,
            namespace,
            base.removesuffix(SUFFIX),
            file.num_bytes,
            file.mtime_ns / 1e9,
        )


def form_of(entry: StoredEntry) -> Form | None:
    """What its header says that it holds; None if that cannot be read."""
    try:
        return read_form(entry.path)
    except (DamagedEntry, OSError):
        return None


def find_damage(entry: StoredEntry) -> str | None:
    """Read all of an entry: what is wrong with it; None if it is right, or gone by now.

    Raises: OSError if it cannot be read, which says nothing about what is in it.
    """
    try:
        read_verified(entry.path, entry.namespace, entry.key, max_bytes=MAX_ENTRY_BYTES)
    except FileNotFoundError:
        return None
    except DamagedEntry as error:
        return str(error)
    return None


def remove_entries(entries: Iterable[StoredEntry]) -> tuple[int, int]:
    """Unlink them. Returns: how many, and their bytes. Raises: OSError, but not for one gone."""
    count = num_bytes = 0
    for entry in entries:
        with suppress(FileNotFoundError):
            os.unlink(entry.path)
            count, num_bytes = count + 1, num_bytes + entry.num_bytes
    return count, num_bytes
