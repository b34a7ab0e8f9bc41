"""One visual item on its way from a language process to the encoder process, over HTTP.

`POST /v1/vision/encode?key=...&modality=image&grid_h=16&grid_w=12&namespace=...`; the body is the
item's patches, uint8, and nothing else: how many bytes there must be follows from the query.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from multimodal.items import Modality, VisualItem
from multimodal.preprocessor_config import PreprocessorConfig
from server.errors import Conflict, InvalidRequest

ENCODE_PATH = "/v1/vision/encode"
BODY_TYPE = "application/octet-stream"
_KEY = re.compile(r"[0-9a-f]{64}", re.ASCII)
_SIDE = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)
_NAMES = ("key", "modality", "grid_h", "grid_w", "namespace")


@dataclass(frozen=True, slots=True)
class EncodeRequest:
    """See `VisualItem` for the fields. `num_bytes`: of the body."""

    modality: Modality
    key: str
    grid_h: int
    grid_w: int
    num_tokens: int
    num_bytes: int


def encode_query(item: VisualItem, namespace: str) -> dict[str, str]:
    """What goes before the patches of an item."""
    return {
        "key": item.key,
        "modality": item.modality,
        "grid_h": str(item.grid_h),
        "grid_w": str(item.grid_w),
        "namespace": namespace,
    }


def parse_query(
    query: Mapping[str, str], config: PreprocessorConfig, namespace: str
) -> EncodeRequest:
    """Raises: InvalidRequest naming the parameter that is wrong; Conflict for another namespace:
    the caller's weights or settings are not those of this process.
    """
    for name in _NAMES:
        if name not in query:
            raise InvalidRequest(f"`{name}` is required", "missing_parameter", name)
    if query["namespace"] != namespace:
        raise Conflict(
            "the caller's vision weights, dtype or device are not those of this process: its "
            f"namespace is {namespace}",
            "namespace_mismatch",
            "namespace",
        )
    if not _KEY.fullmatch(query["key"]):
        raise _wrong("key", "64 lower-case hex digits")
    if query["modality"] not in get_args(Modality):
        raise _wrong("modality", "image or video")
    modality: Modality = "image" if query["modality"] == "image" else "video"
    h, w = _side(query, "grid_h", config), _side(query, "grid_w", config)
    num_tokens = h * w // config.merge_size**2
    if num_tokens > config.max_item_tokens:
        raise _wrong("grid_h", f"part of a grid of {config.max_item_tokens} visual tokens at most")
    num_bytes = h * w * _patch_bytes(modality, config)
    return EncodeRequest(modality, query["key"], h, w, num_tokens, num_bytes)


def _patch_bytes(modality: Modality, config: PreprocessorConfig) -> int:
    num_frames = config.temporal_patch_size if modality == "video" else 1
    return 3 * num_frames * config.patch_size**2


def _side(query: Mapping[str, str], name: str, config: PreprocessorConfig) -> int:
    """In patches."""
    size = int(query[name]) if _SIDE.fullmatch(query[name]) else 0
    if size == 0 or size % config.merge_size:
        raise _wrong(name, f"a multiple of {config.merge_size}, up to five digits")
    return size


def _wrong(name: str, must_be: str) -> InvalidRequest:
    return InvalidRequest(f"`{name}` must be {must_be}", "invalid_value", name)
