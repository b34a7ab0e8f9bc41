"""Messages between `multimodal.video` and its worker processes: a length, then JSON."""

import json
from typing import Any

LENGTH_BYTES = 4  # big-endian


def encode_message(message: dict[str, Any]) -> bytes:
    """The message with its length in front."""
    encoded = json.dumps(message).encode()
    return len(encoded).to_bytes(LENGTH_BYTES, "big") + encoded
