"""The form of a cached embedding's file, and the check of one. Needs no torch: tools read it too.

    magic, then a JSON header padded with spaces    512 bytes
    the rows of the embedding
    blake3 of all before                             32 bytes

The header repeats what the file is for (namespace and key) and says what it holds (shape and
dtype). Files are read into memory of their own and never mapped: a mapped file that another
process truncates would end this one with SIGBUS.
"""

import errno
import json
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from blake3 import blake3

HEADER_BYTES = 512
DIGEST_BYTES = 32
OVERHEAD_BYTES = HEADER_BYTES + DIGEST_BYTES
MAX_ENTRY_BYTES = 4 << 30  # more than any embedding: an image of 16.8 megapixels takes 0.7 GB
_MAGIC = b"q3vision"
_MAX_DIMENSION = 2**40
_ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "uint8": 1}
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# What open() says of a symbolic link and of a socket or device without anything behind it.
_NOT_A_FILE_ERRNOS = frozenset({errno.ELOOP, errno.ENXIO, errno.ENODEV})


class DamagedEntry(Exception):
    """A file is not what its name says: truncated, changed, of another entry, or no file at all."""


@dataclass(frozen=True, slots=True)
class Form:
    """What an entry holds: (tokens, width) and the name of the dtype."""

    shape: tuple[int, int]
    dtype: str


def encode_header(namespace: str, key: str, shape: Sequence[int], dtype: str) -> bytes:
    """Raises: ValueError for another dtype or number of dimensions, or if it gets too long."""
    if dtype not in _ITEM_BYTES or len(shape) != 2:
        raise ValueError(f"no embedding: {len(shape)} dimensions of {dtype}")
    fields = {"namespace": namespace, "key": key, "shape": list(shape), "dtype": dtype}
    header = (_MAGIC + json.dumps(fields).encode()).ljust(HEADER_BYTES)
    if len(header) != HEADER_BYTES:
        raise ValueError("namespace and key are too long")
    return header


def read_form(path: str) -> Form:
    """What an entry says that it holds, from its header alone. Raises: DamagedEntry, OSError."""
    descriptor = _open_file(path)
    try:
        header = os.pread(descriptor, HEADER_BYTES, 0)
    finally:
        os.close(descriptor)
    if not header.startswith(_MAGIC):
        raise DamagedEntry("it has no header")
    return _decode_header(header)


def read_verified(
    path: str, namespace: str, key: str, *, max_bytes: int
) -> tuple[np.ndarray, Form]:
    """All bytes of an entry, (size,) uint8, verified, and what is between header and digest.

    Args:
        max_bytes: of the whole file; nothing is allocated for a larger one.
    Raises: DamagedEntry; OSError if the file cannot be opened or read, or memory is short.
    """
    buffer = _read_file(path, max_bytes)
    header, digest = buffer[:HEADER_BYTES].tobytes(), buffer[-DIGEST_BYTES:].tobytes()
    if blake3(buffer[:-DIGEST_BYTES].data).digest() != digest:
        raise DamagedEntry("the checksum differs")
    form = _decode_header(header)
    if header != encode_header(namespace, key, form.shape, form.dtype):
        raise DamagedEntry("it is another entry's content")
    if len(buffer) - OVERHEAD_BYTES != form.shape[0] * form.shape[1] * _ITEM_BYTES[form.dtype]:
        raise DamagedEntry("the shape does not fit the size")
    return buffer, form


def _decode_header(header: bytes) -> Form:
    """Shape and dtype; that the rest is right is seen by encoding them again."""
    try:
        fields = json.loads(header[len(_MAGIC) :])
        shape, dtype = fields["shape"], fields["dtype"]
        _ITEM_BYTES[dtype]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DamagedEntry("it has no header") from None
    if not isinstance(shape, list) or len(shape) != 2:
        raise DamagedEntry("the shape does not have two dimensions")
    if not all(type(number) is int and 0 <= number <= _MAX_DIMENSION for number in shape):
        raise DamagedEntry("the shape is out of bounds")
    return Form((shape[0], shape[1]), dtype)


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
