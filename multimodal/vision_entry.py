"""A cached vision embedding in its file: written once, verified whenever it is read.

`multimodal.vision_file` has the file's form.
"""

from typing import IO

import torch
from blake3 import blake3

from multimodal.vision_file import (
    DIGEST_BYTES,
    HEADER_BYTES,
    OVERHEAD_BYTES,
    DamagedEntry,
    encode_header,
    read_verified,
)

__all__ = ["OVERHEAD_BYTES", "DamagedEntry", "read_entry", "write_entry"]

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "uint8": torch.uint8,
}


def write_entry(file: IO[bytes], namespace: str, key: str, embedding: torch.Tensor) -> None:
    """Write an entry without a second copy of its payload.

    Args:
        embedding: (tokens, width), on the CPU; float32, bfloat16, float16 or uint8.
    Raises: OSError; ValueError for another dtype or number of dimensions, or if namespace and key
        together are longer than about 400 characters.
    """
    dtype = str(embedding.dtype).removeprefix("torch.")
    header = encode_header(namespace, key, embedding.shape, dtype)
    payload = embedding.detach().reshape(-1).view(torch.uint8).numpy().data
    hasher = blake3(header)
    hasher.update(payload)
    for piece in (header, payload, hasher.digest()):
        _write_all(file, memoryview(piece))


def read_entry(path: str, namespace: str, key: str, *, max_bytes: int) -> torch.Tensor:
    """The embedding of an entry, (tokens, width); it alone owns its memory.

    Args, Raises: as `read_verified`.
    """
    buffer, form = read_verified(path, namespace, key, max_bytes=max_bytes)
    payload = torch.from_numpy(buffer)[HEADER_BYTES:-DIGEST_BYTES]
    return payload.view(_DTYPES[form.dtype]).view(form.shape)


def _write_all(file: IO[bytes], view: memoryview) -> None:
    while view:
        view = view[file.write(view) :]
