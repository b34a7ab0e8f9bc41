"""Messages between the server and its worker processes: a length, then JSON.

The worker's side is here as well: it talks over its standard streams.
"""

import json
import os
import sys
from typing import IO, Any

LENGTH_BYTES = 4  # big-endian
_READ_BYTES = 1024**2  # at once; no pipe holds more by default


def encode_message(message: dict[str, Any]) -> bytes:
    """The message with its length in front."""
    encoded = json.dumps(message).encode()
    return len(encoded).to_bytes(LENGTH_BYTES, "big") + encoded


def private_stdio() -> tuple[IO[bytes], IO[bytes]]:
    """Standard input, unbuffered, and output; what libraries print goes to standard error instead.

    A process that has been forked reads on where the one before it has ended.
    """
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return os.fdopen(sys.stdin.fileno(), "rb", buffering=0, closefd=False), answers


def send(stream: IO[bytes], message: dict[str, Any]) -> None:
    stream.write(encode_message(message))
    stream.flush()


def receive(stream: IO[bytes]) -> dict[str, Any] | None:
    """The next message, or None if the parent has closed the pipe."""
    try:
        length = read_exactly(stream, LENGTH_BYTES)
    except EOFError:
        return None
    message: dict[str, Any] = json.loads(read_exactly(stream, int.from_bytes(length, "big")))
    return message


def read_exactly(stream: IO[bytes], num_bytes: int) -> bytes:
    """Raises: EOFError."""
    parts = []
    while num_bytes > 0:
        part = stream.read(min(num_bytes, _READ_BYTES))
        if not part:
            raise EOFError
        parts.append(part)
        num_bytes -= len(part)
    return b"".join(parts)
