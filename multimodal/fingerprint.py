"""What an embedding depends on besides the item itself, as a namespace of the vision cache."""

import json
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from blake3 import blake3
from huggingface_hub import snapshot_download

from multimodal.checkpoint_files import read_checkpoint_json
from multimodal.keys import PREPROCESSING_VERSION

_LENGTH_BYTES = 8  # of the number before a safetensors header, little-endian
_VISION_TENSOR = "visual."
_VISION_SETTINGS = ("vision_config", "quantization_config", "dtype", "torch_dtype")


def vision_namespace(model: str, revision: str | None, **runtime: str | int) -> str:
    """64 hex digits that change with the vision weights, and with anything else that is given.

    Every byte of the vision tower is read: some 0.8 to 1.2 GB, which take about half a second.

    Args:
        model: a local folder or a Hugging Face repository name, which is fetched.
        runtime: what else changes the numbers: dtype, device, tensor-parallel size.
    Raises: FileNotFoundError if the checkpoint has no vision weights in safetensors files.
    """
    folder = Path(model)
    if not folder.is_dir():
        folder = Path(snapshot_download(model, revision=revision, allow_patterns="*.safetensors"))
    config = read_checkpoint_json(model, "config.json", revision) or {}
    facts = [
        PREPROCESSING_VERSION,
        {name: config.get(name) for name in _VISION_SETTINGS},
        read_checkpoint_json(model, "preprocessor_config.json", revision),
        sorted(runtime.items()),
    ]
    hasher = blake3(json.dumps(facts, sort_keys=True).encode(), max_threads=blake3.AUTO)
    if not sum(_hash_vision(path, hasher) for path in sorted(folder.glob("*.safetensors"))):
        raise FileNotFoundError(f"{model} has no vision weights in safetensors files")
    return str(hasher.hexdigest())


def _hash_vision(path: Path, hasher: blake3) -> int:
    """Add the vision tensors of one file. Returns how many there are."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        view = memoryview(data)
        start = _LENGTH_BYTES + int.from_bytes(view[:_LENGTH_BYTES], "little")
        tensors = list(_vision_tensors(json.loads(bytes(view[_LENGTH_BYTES:start]))))
        for name, (begin, end), described in tensors:
            hasher.update(f"{name} {described} ".encode())
            hasher.update(view[start + begin : start + end])
        view.release()
    return len(tensors)


def _vision_tensors(
    header: Mapping[str, Any],
) -> Iterator[tuple[str, tuple[int, int], str]]:
    for name in sorted(header):
        if _VISION_TENSOR in name:
            entry = header[name]
            begin, end = entry["data_offsets"]
            yield name, (begin, end), f"{entry['dtype']} {entry['shape']}"
