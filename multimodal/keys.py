"""Content keys: what a visual item is called in every cache.

A key says everything that the vision tower's output depends on, and nothing else: what the pixels
were made from, the grid they were resized to, how they were made (`PREPROCESSING_VERSION`) and for
whom (the namespace: vision weights, dtype, tenant). It never comes from a client, a file name or
metadata.
"""

import json
from typing import Literal

import numpy as np
from blake3 import blake3

# To be raised with every change to decoding, resizing or patch layout that changes an item's bytes.
PREPROCESSING_VERSION = 1

IdentityKind = Literal["image", "video", "frames"]


def bytes_digest(data: bytes) -> str:
    """64 hex digits for encoded media (an image file, a video file)."""
    return str(blake3(data).hexdigest())


def array_digest(array: np.ndarray) -> str:
    """64 hex digits for decoded pixels; never equal to the digest of any encoded media."""
    header = json.dumps(["array", str(array.dtype), array.shape])
    hasher = blake3(derive_key_context="qwen3vl-serve 2025 decoded pixels")
    hasher.update(f"{len(header)}:{header}".encode())
    hasher.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return str(hasher.hexdigest())


def content_key(
    kind: IdentityKind,
    identity: tuple[str | int, ...],
    *,
    height: int,
    width: int,
    patch_size: int,
    merge_size: int,
    namespace: str,
) -> str:
    """The key of one visual item, 64 hex digits.

    Args:
        kind, identity: "image": (digest,); "video": (digest, first index, second index); "frames":
            (digest of the first frame's file, digest of the second's). A frame that is repeated to
            fill a temporal patch is a pair with itself.
        height, width: pixels after resizing.
        namespace: whatever else must keep entries apart; compared as it is.
    """
    fields = [
        "qwen3vl-serve visual item",
        PREPROCESSING_VERSION,
        kind,
        identity,
        [height, width, patch_size, merge_size],
        namespace,
    ]
    return str(blake3(json.dumps(fields, separators=(",", ":")).encode()).hexdigest())
