"""How far the processes of an engine are with loading: one small file for each of them.

They write only if the server has made the folder, which it does where somebody looks on. So the
loading of weights costs nothing more elsewhere, and no message has to find its way to the server.
"""

import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multimodal.checkpoint_files import read_checkpoint_json
from multimodal.private_directory import check_private

_FOLDER = "qwen3vl-loading"
_FORM = struct.Struct("<QB")  # bytes, and whether that was all


@dataclass(frozen=True, slots=True)
class Loaded:
    """Of the process that is the furthest behind. `is_done`: all of them have all weights."""

    num_bytes: int
    is_done: bool


def make_folder(run_folder: Path) -> Path:
    """Let the processes that know this folder tell how far they are."""
    folder = run_folder / _FOLDER
    folder.mkdir(mode=0o700)
    return folder


def counted(weights: Iterable[tuple[str, Any]], run_folder: str) -> Iterable[tuple[str, Any]]:
    """Pass on named tensors, and tell their bytes to whoever has made the folder.

    Args:
        run_folder: vLLM's for its sockets. Under its own server that is everybody's temporary
            folder, where somebody else may have made ours, with links in it.
    """
    folder = Path(run_folder, _FOLDER)
    with suppress(OSError):
        if check_private(folder) is None:
            return _count(weights, folder / str(os.getpid()))
    return weights


def read_loaded(folder: Path) -> Loaded | None:
    """None before the first process has begun."""
    found = []
    with suppress(OSError, struct.error):  # it is being written for the first time, or removed
        for file in os.scandir(folder):
            with open(file.path, "rb") as opened:
                found.append(_FORM.unpack(opened.read(_FORM.size)))
    if not found:
        return None
    return Loaded(min(n for n, _ in found), all(is_done for _, is_done in found))


def weights_bytes(model: str, revision: str | None) -> int | None:
    """Bytes of a checkpoint's tensors, as nearly as its files tell; None if they do not.

    Args:
        model: a local folder or a Hugging Face repository name.
    """
    if Path(model).is_dir():
        sizes = [path.stat().st_size for path in Path(model).glob("*.safetensors")]
        return sum(sizes) or None
    with suppress(OSError, ValueError, KeyError, TypeError):
        index = read_checkpoint_json(model, "model.safetensors.index.json", revision) or {}
        return int(index["metadata"]["total_size"])
    return None


def _count(weights: Iterable[tuple[str, Any]], path: Path) -> Iterator[tuple[str, Any]]:
    num_bytes = 0
    _tell(path, num_bytes, is_done=False)
    for name, tensor in weights:
        yield name, tensor
        num_bytes += tensor.nbytes
        _tell(path, num_bytes, is_done=False)
    _tell(path, num_bytes, is_done=True)


def _tell(path: Path, num_bytes: int, *, is_done: bool) -> None:
    """What fails here is a bar that stands still, and no reason to stop loading."""
    with suppress(OSError):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(file, _FORM.pack(num_bytes, is_done), 0)
        finally:
            os.close(file)
