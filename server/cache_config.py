"""The vision cache of a server, from its settings."""

import logging
import os
import secrets
import shutil
from pathlib import Path

from multimodal.fingerprint import vision_namespace
from multimodal.vision_cache import VisionCacheConfig
from server.settings import CacheSettings, EngineSettings

logger = logging.getLogger(__name__)

_SHARED_MEMORY = Path("/dev/shm")
_GIB = 1024**3
_MAX_DEFAULT_HOST_BYTES = 8 * _GIB


def vision_cache_config(
    model: str, engine: EngineSettings, cache: CacheSettings, device: str, handover_dir: Path
) -> VisionCacheConfig:
    """Reads the vision weights.

    Args:
        device: "cpu" or "cuda".
    Raises: ValueError if a process that is one half of a model shares no tier with the other.
    """
    host_dir = cache.host_dir or str(_SHARED_MEMORY / f"qwen3vl-serve-{os.geteuid()}")
    host_bytes = cache.host_bytes
    if host_bytes is None:
        host_bytes = _default_host_bytes()
    if engine.role != "both" and not host_bytes and cache.disk_dir is None:
        raise ValueError(
            f"the role `{engine.role}` needs a vision cache that is shared with the other "
            "process: cache.host_bytes above 0, or cache.disk_dir"
        )
    return VisionCacheConfig(
        namespace=_namespace(model, engine, device),
        has_encoder=engine.role != "language",
        handover_dir=str(handover_dir),
        host_dir=host_dir if host_bytes else None,
        host_bytes=host_bytes,
        disk_dir=cache.disk_dir,
        disk_bytes=cache.disk_bytes,
    )


def _default_host_bytes() -> int:
    """A quarter of the shared memory that is free; none on a system without."""
    if not _SHARED_MEMORY.is_dir():
        return 0
    return min(shutil.disk_usage(_SHARED_MEMORY).free // 4, _MAX_DEFAULT_HOST_BYTES)


def _namespace(model: str, engine: EngineSettings, device: str) -> str:
    runtime: dict[str, str | int] = {
        "dtype": engine.dtype,
        "device": device,
        "tensor_parallel_size": _num_tower_shares(engine),
    }
    if engine.mm_encoder_attn_backend is not None:
        runtime["mm_encoder_attn_backend"] = engine.mm_encoder_attn_backend.upper()
    try:
        return vision_namespace(model, engine.revision, **runtime)
    except (FileNotFoundError, ValueError) as error:  # without weights, or with damaged ones
        logger.warning("the vision cache will not outlive this process: %s", error)
        return secrets.token_hex(32)


def _num_tower_shares(engine: EngineSettings) -> int:
    """Ranks whose partial sums make up an embedding."""
    is_whole = engine.mm_encoder_tp_mode == "data" or engine.role == "language"
    return 1 if is_whole else engine.tensor_parallel_size
