"""What an embedding depends on besides the item itself, as a namespace of the vision cache."""

import json
import mmap
from collections.abc import Mapping
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
    tensors: dict[str, str] = {}
    for path in folder.glob("*.safetensors"):
        tensors |= _vision_digests(path)
    if not tensors:
        raise FileNotFoundError(f"{model} has no vision weights in safetensors files")
    facts = {
        "preprocessing": [
            PREPROCESSING_VERSION,
            read_checkpoint_json(model, "preprocessor_config.json", revision),
        ],
        "config": {name: config.get(name) for name in _VISION_SETTINGS},
        "runtime": runtime,
        "tensors": tensors,
    }
    return str(blake3(json.dumps(facts, sort_keys=True).encode()).hexdigest())


def _vision_digests(path: Path) -> dict[str, str]:
    """Type, shape and digest of each vision tensor in one file, by name."""
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        memoryview(data) as view,
    ):
        start = _LENGTH_BYTES + int.from_bytes(view[:_LENGTH_BYTES], "little")
        header = json.loads(bytes(view[_LENGTH_BYTES:start]))
        return {
            name: f"{entry['dtype']} {entry['shape']} {_digest(view[start:], entry)}"
            for name, entry in header.items()
            if _VISION_TENSOR in name
        }


def _digest(tensors: memoryview, entry: Mapping[str, Any]) -> str:
    begin, end = entry["data_offsets"]
    with tensors, tensors[begin:end] as payload:
        return str(blake3(payload, max_threads=blake3.AUTO).hexdigest())
