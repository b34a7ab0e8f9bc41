"""The file of one cached vision embedding: written once, verified whenever it is read.

    magic, then a JSON header padded with spaces    512 bytes
    the rows of the embedding
    blake3 of all before                             32 bytes

The header repeats what the file is for (namespace and key) and says what it holds (shape and
dtype). Entries are read into memory of their own and never mapped: a mapped file that another
process truncates would end this one with SIGBUS.
"""

import errno
import json
import os
import stat
from collections.abc import Sequence
from typing import IO

import numpy as np
import torch
from blake3 import blake3

_MAGIC = b"q3vision"
_HEADER_BYTES = 512
_DIGEST_BYTES = 32
OVERHEAD_BYTES = _HEADER_BYTES + _DIGEST_BYTES
_MAX_DIMENSION = 2**40
_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "uint8": torch.uint8,
}
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# What open() says of a symbolic link and of a socket or device without anything behind it.
_NOT_A_FILE_ERRNOS = frozenset({errno.ELOOP, errno.ENXIO, errno.ENODEV})


class DamagedEntry(Exception):
    """A file is not what its name says: truncated, changed, of another entry, or no file at all."""


def write_entry(file: IO[bytes], namespace: str, key: str, embedding: torch.Tensor) -> None:
    """Write an entry without a second copy of its payload.

    Args:
        embedding: (tokens, width), on the CPU; float32, bfloat16, float16 or uint8.
    Raises: OSError; ValueError for another dtype or number of dimensions, or if namespace and key
        together are longer than about 400 characters.
    """
    header = _encode_header(namespace, key, embedding.shape, embedding.dtype)
    payload = embedding.detach().reshape(-1).view(torch.uint8).numpy().data
    hasher = blake3(header)
    hasher.update(payload)
    for piece in (header, payload, hasher.digest()):
        _write_all(file, memoryview(piece))


def read_entry(path: str, namespace: str, key: str, *, max_bytes: int) -> torch.Tensor:
    """The embedding of an entry, (tokens, width); it alone owns its memory.

    Args:
        max_bytes: of the whole file; nothing is allocated for a larger one.
    Raises: DamagedEntry; OSError if the file cannot be opened or read, or memory is short.
    """
    buffer = _read_file(path, max_bytes)
    header, digest = buffer[:_HEADER_BYTES].tobytes(), buffer[-_DIGEST_BYTES:].tobytes()
    if blake3(buffer[:-_DIGEST_BYTES].data).digest() != digest:
        raise DamagedEntry("the checksum differs")
    shape, dtype = _decode_header(header)
    if header != _encode_header(namespace, key, shape, dtype):
        raise DamagedEntry("it is another entry's content")
    if len(buffer) - OVERHEAD_BYTES != shape[0] * shape[1] * dtype.itemsize:
        raise DamagedEntry("the shape does not fit the size")
    payload = torch.from_numpy(buffer)[_HEADER_BYTES:-_DIGEST_BYTES]
    return payload.view(dtype).view(shape)


def _encode_header(namespace: str, key: str, shape: Sequence[int], dtype: torch.dtype) -> bytes:
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES or len(shape) != 2:
        raise ValueError(f"no embedding: {len(shape)} dimensions of {name}")
    fields = {"namespace": namespace, "key": key, "shape": list(shape), "dtype": name}
    header = (_MAGIC + json.dumps(fields).encode()).ljust(_HEADER_BYTES)
    if len(header) != _HEADER_BYTES:
        raise ValueError("namespace and key are too long")
    return header


def _decode_header(header: bytes) -> tuple[list[int], torch.dtype]:
    """Shape and dtype; that the rest is right is seen by encoding them again."""
    try:
        fields = json.loads(header[len(_MAGIC) :])
        shape, dtype = fields["shape"], _DTYPES[fields["dtype"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DamagedEntry("it has no header") from None
    if not isinstance(shape, list) or len(shape) != 2:
        raise DamagedEntry("the shape does not have two dimensions")
    if not all(type(number) is int and 0 <= number <= _MAX_DIMENSION for number in shape):
        raise DamagedEntry("the shape is out of bounds")
    return shape, dtype


def _read_file(path: str, max_bytes: int) -> np.ndarray:
    """All bytes of a regular file, (size,) uint8."""
    descriptor = _open_file(path)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DamagedEntry("it is not a file")
        if not OVERHEAD_BYTES <= status.st_size <= max_bytes:
            raise DamagedEntry(f"{status.st_size} bytes are out of bounds")
        buffer = _allocate(status.st_size)
        _read_all(descriptor, buffer.data)
    finally:
        os.close(descriptor)
    return buffer


def _open_file(path: str) -> int:
    try:
        return os.open(path, _OPEN_FLAGS)
    except OSError as error:
        if error.errno in _NOT_A_FILE_ERRNOS:
            raise DamagedEntry("it is not a file") from None
        raise


def _allocate(num_bytes: int) -> np.ndarray:
    """Memory that is not zeroed; numpy's, which asks for huge pages where torch's does not."""
    try:
        return np.empty(num_bytes, dtype=np.uint8)
    except MemoryError:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from None


def _read_all(descriptor: int, view: memoryview) -> None:
    while view:
        num_read = os.readv(descriptor, [view])
        if num_read == 0:
            raise DamagedEntry("it was truncated while it was read")
        view = view[num_read:]


def _write_all(file: IO[bytes], view: memoryview) -> None:
    while view:
        view = view[file.write(view) :]
