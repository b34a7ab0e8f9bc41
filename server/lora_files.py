"""A LoRA adapter's files, taken from where others may change them to a folder of this process.

vLLM reads an adapter's files again whenever it has dropped the adapter to make room, in the middle
of a step: files that have changed or gone by then would end the engine.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from blake3 import blake3

from server.engine import AdapterRefused
from server.lora_config import CONFIG_FILE, MAX_CONFIG_BYTES, parse_config, write_config
from server.lora_weights import WEIGHTS_FILE, Targets, check_weights, max_weight_bytes

_PICKLED = ("adapter_model.bin", "adapter_model.pt")
_CHUNK_BYTES = 1024**2


@dataclass(frozen=True, slots=True)
class CheckedFiles:
    """`digest` is 64 hex digits of all that the adapter does; `has_tower`: see `LoraAdapter`."""

    digest: str
    has_tower: bool


def find_folder(root: Path, given: str) -> Path:
    """The folder of an adapter below `root`. Raises: AdapterRefused for any other.

    Links may lead from one place below the root to another.
    """
    root = root.resolve()
    try:
        folder = (root / given).resolve()
        is_folder = folder.is_dir()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a null byte, a loop
        raise AdapterRefused("it is not a path") from error
    if root not in folder.parents:
        raise AdapterRefused("it must lie below `engine.lora_dir`")
    if not is_folder:
        raise AdapterRefused("there is no such folder")
    return folder


def copy_adapter(
    folder: Path, copy: Path, targets: Targets, max_lora_rank: int, root: Path | None = None
) -> CheckedFiles:
    """Copy an adapter's files into an empty folder and check the copy. Blocks.

    Args:
        root: no file may lie elsewhere, whatever links say; None for folders that are trusted.
    Raises: AdapterRefused.
    """
    root = None if root is None else root.resolve()
    with _open(folder / CONFIG_FILE, root) as file:
        data = file.read(MAX_CONFIG_BYTES + 1)
    if len(data) > MAX_CONFIG_BYTES:
        raise AdapterRefused(f"{CONFIG_FILE} exceeds {MAX_CONFIG_BYTES} bytes")
    config = parse_config(data, max_lora_rank)
    digest = blake3(write_config(config, copy))
    if not (folder / WEIGHTS_FILE).exists():
        _refuse_pickled(folder)
    with _open(folder / WEIGHTS_FILE, root) as file:
        _copy(file, copy / WEIGHTS_FILE, max_weight_bytes(targets, max_lora_rank), digest)
    return CheckedFiles(str(digest.hexdigest()), check_weights(copy, config, targets))


def _refuse_pickled(folder: Path) -> None:
    for name in _PICKLED:
        if (folder / name).exists():
            raise AdapterRefused(f"{name} is pickled, which may run code; save {WEIGHTS_FILE}")


@contextmanager
def _open(path: Path, root: Path | None) -> Iterator[IO[bytes]]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would wait
    except OSError as error:
        raise AdapterRefused(f"{path.name} is missing, or cannot be read") from error
    with os.fdopen(descriptor, "rb") as file:
        # asked of what is open: between a look and an opening, a link could be put in its place
        real = Path(os.readlink(f"/proc/self/fd/{file.fileno()}"))
        if root is not None and root not in real.parents:
            raise AdapterRefused(f"{path.name} must lie below `engine.lora_dir`")
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise AdapterRefused(f"{path.name} is not a file")
        yield file


def _copy(source: IO[bytes], path: Path, max_bytes: int, digest: "blake3") -> None:
    num_bytes = 0
    with path.open("wb") as target:
        while chunk := source.read(_CHUNK_BYTES):
            num_bytes += len(chunk)
            if num_bytes > max_bytes:
                raise AdapterRefused(
                    f"{WEIGHTS_FILE} exceeds {max_bytes} bytes, which adapters of "
                    "`engine.max_lora_rank` have at most"
                )
            digest.update(chunk)
            target.write(chunk)
