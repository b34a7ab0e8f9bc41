"""What the server says of itself when it is ready: a block on a terminal, else one log record."""

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from multimodal.checkpoint_files import read_checkpoint_json
from multimodal.vision_cache import VisionCacheConfig
from server.engine import EngineDetails, ModelInfo
from server.log_setup import CLEAR_LINE, is_read_live
from server.settings import Settings
from server.state import Backend, EncoderBackend
from server.units import format_bytes

if TYPE_CHECKING:  # imports vLLM
    from server.vllm_engine import VllmEngine

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a server that is ready.

    Attributes:
        kind: of its chat template; None for a process that only encodes.
        config: of the checkpoint.
        url: of this server, without a path.
    """

    settings: Settings
    info: ModelInfo
    details: EngineDetails
    cache: VisionCacheConfig
    kind: str | None
    config: Mapping[str, Any]
    url: str


def collect_facts(
    settings: Settings, model: str, backend: Backend | EncoderBackend, address: tuple[Any, ...]
) -> Facts:
    """Reads the checkpoint's configuration.

    Args:
        model: as it is found on this machine or a hub.
        address: of the listening socket.
    """
    engine = cast("VllmEngine", backend.engine)
    host, port = address[:2]
    scheme = "http" if settings.server.ssl_certfile is None else "https"
    return Facts(
        settings=settings,
        info=engine.model_info,
        details=engine.details,
        cache=engine.cache.config,
        kind=backend.renderer.kind if isinstance(backend, Backend) else None,
        config=read_checkpoint_json(model, "config.json", settings.engine.revision) or {},
        url=f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}",
    )


def report_start(facts: Facts) -> None:
    fields = list_fields(facts)
    if is_read_live(facts.settings.server.log_format):
        sys.stderr.write(f"{CLEAR_LINE}\n{to_text(fields)}\n\n")
        sys.stderr.flush()
    else:
        logger.info("ready", extra={"fields": fields})


def list_fields(facts: Facts) -> dict[str, Any]:
    """The report as a record; None where there is no such thing. The names are the settings'."""
    settings, details, cache = facts.settings, facts.details, facts.cache
    return {
        "model": facts.info.name,
        "kind": facts.kind or "encoder",
        "experts": _num_experts(facts.config),
        "quantization": _quantisation(facts.config),
        "random_weights": facts.info.random_weights or None,
        "device": details.device,
        "dtype": details.dtype,
        "max_model_len": facts.info.max_model_len,
        "tensor_parallel_size": details.tensor_parallel_size,
        "pipeline_parallel_size": details.pipeline_parallel_size,
        "data_parallel_size": details.data_parallel_size,
        "enable_expert_parallel": details.enable_expert_parallel,
        "device_bytes": settings.cache.device_bytes,
        "host_dir": cache.host_dir,
        "host_bytes": cache.host_bytes if cache.host_dir else None,
        "disk_dir": cache.disk_dir,
        "disk_bytes": cache.disk_bytes if cache.disk_dir else None,
        "max_concurrent_requests": settings.server.max_concurrent_requests,
        "max_num_seqs": settings.engine.max_num_seqs,
        "max_items_per_request": settings.media.max_items_per_request,
        "max_image_bytes": settings.media.max_image_bytes,
        "max_video_bytes": settings.media.max_video_bytes,
        "api_keys": settings.access.api_keys_file is not None,
        "api": f"{facts.url}/v1",
        "page": f"{facts.url}/" if facts.settings.has_page else None,
    }


def to_text(fields: Mapping[str, Any]) -> str:
    rows = [
        ("model", _model_row(fields)),
        ("layout", _layout_row(fields)),
        ("cache", _cache_row(fields)),
        ("limits", _limits_row(fields)),
        ("API", fields["api"]),
        ("page", fields["page"]),
    ]
    text = "\n".join(f"  {name:<8}{value}" for name, value in rows if value is not None)
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def _model_row(fields: Mapping[str, Any]) -> str:
    experts, quantisation = fields["experts"], fields["quantization"]
    parts = [
        fields["kind"],
        f"MoE of {experts} experts" if experts else "dense",
        f"quantised ({quantisation})" if quantisation else "not quantised",
    ]
    if fields["random_weights"]:
        parts.append("random weights: its answers mean nothing")
    return f"{fields['model']}: {', '.join(parts)}"


def _layout_row(fields: Mapping[str, Any]) -> str:
    sizes = {"TP": "tensor", "PP": "pipeline", "DP": "data"}
    parts = [f"{short} {fields[f'{name}_parallel_size']}" for short, name in sizes.items()]
    if fields["enable_expert_parallel"]:
        parts.append("EP")
    parts += [f"on {fields['device'] or 'cpu'}", fields["dtype"]]
    return f"{', '.join(parts)}, context {fields['max_model_len']:,} tokens"


def _cache_row(fields: Mapping[str, Any]) -> str:
    device = fields["device_bytes"]
    tiers = [f"device {'by the step' if device is None else format_bytes(device)}"]
    for tier in ("host", "disk"):
        directory = fields[f"{tier}_dir"]
        size = f"{format_bytes(fields[f'{tier}_bytes'])} in {directory}" if directory else "none"
        tiers.append(f"{tier} {size}")
    return "; ".join(tiers)


def _limits_row(fields: Mapping[str, Any]) -> str:
    parts = [
        f"{fields['max_concurrent_requests']} requests at once",
        f"{fields['max_items_per_request']} images and videos each",
        f"images to {format_bytes(fields['max_image_bytes'])}",
        f"videos to {format_bytes(fields['max_video_bytes'])}",
        "API keys are asked for" if fields["api_keys"] else "no API keys",
    ]
    return ", ".join(parts)


def _num_experts(config: Mapping[str, Any]) -> int | None:
    text = config.get("text_config") or {}
    return text.get("num_experts") or None


def _quantisation(config: Mapping[str, Any]) -> str | None:
    found = config.get("quantization_config") or {}
    return found.get("quant_method")
