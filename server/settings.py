"""Every setting of the server in one frozen object: flags > environment > YAML file > defaults.

The only file that reads the process environment. The command line calls `load_settings` once;
everything else is handed the object, or a value from it.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from multimodal.options import MediaLimits
from server.media_url import ascii_domain

ENV_PREFIX = "QWEN3VL_"
ENV_DELIMITER = "__"
EMBEDDED_MODEL = "demo"
_LIMITS = MediaLimits()
_MIB = 1024**2
OtlpProtocol = Literal["grpc", "http/protobuf"]
_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # vLLM's


class SettingsError(Exception):
    """The settings are wrong; the message names each variable or key and what it should be."""


def _count_cores() -> int:
    return len(os.sched_getaffinity(0))


def _split_commas(value: object) -> object:
    """Environment variables hold lists as `a,b`."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _parse_mapping(value: object) -> object:
    """Flags and environment variables hold mappings as JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError(f"must be a JSON object: {error}") from error


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ServerSettings(_Group):
    """The HTTP side."""

    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(
        default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one."
    )
    max_body_bytes: int = Field(
        default=64 * _MIB,
        ge=1024,
        le=4096 * _MIB,
        description="Largest request body, data URLs included.",
    )
    max_concurrent_requests: int = Field(
        default=256,
        ge=1,
        le=65536,
        description="Requests accepted at once, waiting or running; one more gets a 503 at once. "
        "One client gets at most seven eighths.",
    )
    body_timeout_s: float = Field(
        default=30.0, gt=0, le=3600, description="Seconds in which a request body must arrive."
    )
    write_timeout_s: float = Field(
        default=60.0,
        gt=0,
        le=3600,
        description="Seconds after which a client that does not read its answer is given up.",
    )
    shutdown_timeout_s: float = Field(
        default=30.0,
        ge=0,
        le=3600,
        description="Seconds that accepted requests get to finish at shutdown.",
    )
    max_total_body_bytes: int = Field(
        default=1024 * _MIB,
        ge=1024,
        validate_default=True,
        description="Bytes of request bodies and encoded media that all requests hold together; "
        "one that needs more gets a 503 at once. One client gets at most seven eighths. At least "
        "`max_body_bytes`.",
    )
    header_timeout_s: float = Field(
        default=10.0,
        gt=0,
        le=3600,
        description="Seconds in which the headers of a request must arrive, from the start of a "
        "connection or the end of the answer before; then it is closed. Over TLS, the handshake "
        "before has as many.",
    )
    max_connections: int = Field(
        default=4096,
        ge=1,
        le=1_000_000,
        description="Open connections; one more is closed at once.",
    )
    request_timeout_s: float = Field(
        default=3600.0,
        gt=0,
        le=86400,
        description="Seconds for one request with its answer; a client may ask for fewer by the "
        "header `x-request-timeout`.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe log lines that are written."
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="Log lines for people, or one JSON object each."
    )
    insecure: bool = Field(
        default=False,
        description="Listen on other addresses than this machine's own without API keys.",
    )
    ssl_certfile: Path | None = Field(
        default=None, description="Certificate chain (PEM), for https. Default: http."
    )
    ssl_keyfile: Path | None = Field(
        default=None, validate_default=True, description="Its private key (PEM), not encrypted."
    )
    cors_allow_origins: Annotated[
        tuple[Annotated[str, Field(pattern=r"^(\*|https?://[^/?#\s]+)$")], ...],
        NoDecode,
        BeforeValidator(_split_commas),
    ] = Field(
        default=(),
        description="Origins of web pages that may use the API, separated by commas; `*` is all. "
        "Default: none.",
    )
    profile_dir: Path | None = Field(
        default=None,
        description="Folder for traces; clients may then take them, by `/start_profile`.",
    )
    ui: bool = Field(
        default=True,
        description="Serve the page at `/`, on which people try the model; `--no-ui` turns it off.",
    )
    api_workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Processes that take requests and prepare media for the same engines; they "
        "share out what is limited per server.",
    )

    @field_validator("ssl_keyfile")
    @classmethod
    def _check_certificate(cls, keyfile: Path | None, others: ValidationInfo) -> Path | None:
        if (keyfile is None) != (others.data.get("ssl_certfile") is None):
            raise ValueError("ssl_certfile and ssl_keyfile go together")
        return keyfile

    @field_validator("max_total_body_bytes")
    @classmethod
    def _check_total_body(cls, num_bytes: int, others: ValidationInfo) -> int:
        least = others.data.get("max_body_bytes", 0)  # absent if it is wrong itself
        if num_bytes < least:
            raise ValueError(f"must be at least max_body_bytes ({least})")
        return num_bytes

    @field_validator("api_workers")
    @classmethod
    def _check_workers(cls, count: int, others: ValidationInfo) -> int:
        if count > 1 and others.data.get("profile_dir") is not None:
            raise ValueError("must be 1 with profile_dir: a profile is of one process")
        return count


class AccessSettings(_Group):
    """Who may use the server, and how much of it."""

    api_keys_file: Path | None = Field(
        default=None,
        description="File of hashed API keys, made by `qwen3vl-serve keys`; read again when it "
        "changes. Default: none, every client may use the server.",
    )
    requests_per_minute: int | None = Field(
        default=None, ge=1, description="Of each API key that has no limit of its own."
    )
    tokens_per_minute: int | None = Field(
        default=None, ge=1, description="The same of prompt and answer tokens together."
    )
    max_concurrent_per_key: int | None = Field(
        default=None, ge=1, description="The same of requests under way at once."
    )

    @field_validator("requests_per_minute", "tokens_per_minute", "max_concurrent_per_key")
    @classmethod
    def _check_keys(cls, limit: int | None, others: ValidationInfo) -> int | None:
        if limit is not None and others.data.get("api_keys_file") is None:
            raise ValueError("needs api_keys_file: without it, a client is whoever it says it is")
        return limit


class MediaSettings(_Group):
    """What a request may ask of the media path."""

    max_image_bytes: int = Field(
        default=_LIMITS.max_image_bytes, ge=1, description="Largest encoded image or frame."
    )
    max_video_bytes: int = Field(
        default=_LIMITS.max_video_bytes,
        ge=1,
        description="Largest encoded video file, or list of frames.",
    )
    max_request_bytes: int = Field(
        default=512 * _MIB, ge=1, description="Encoded bytes of all media of one request together."
    )
    max_decoded_bytes: int = Field(
        default=_LIMITS.max_decoded_bytes,
        ge=1,
        description="Raw RGB bytes that one request may make the server hold.",
    )
    max_total_decoded_bytes: int = Field(
        default=_LIMITS.max_total_decoded_bytes,
        ge=1,
        validate_default=True,
        description="The same over all requests that are loading media; one that needs more gets "
        "a 503 at once. At least `max_decoded_bytes`.",
    )
    max_source_pixels: int = Field(
        default=_LIMITS.max_source_pixels,
        ge=1,
        description="Width * height of an encoded image or frame.",
    )
    max_request_source_pixels: int = Field(
        default=_LIMITS.max_request_source_pixels,
        ge=1,
        description="Encoded pixels of all images and listed frames of one request together.",
    )
    max_aspect_ratio: float = Field(
        default=_LIMITS.max_aspect_ratio, ge=1, le=200, description="Longer side / shorter side."
    )
    max_pixels: int = Field(
        default=_LIMITS.max_pixels, ge=1024, description="Ceiling for `max_pixels` of a request."
    )
    max_total_pixels: int = Field(
        default=_LIMITS.max_total_pixels,
        ge=1024,
        description="Ceiling for `total_pixels` of a request (frames * height * width / 2).",
    )
    max_fps: float = Field(
        default=_LIMITS.max_fps, gt=0, description="Ceiling for `fps` of a request."
    )
    max_frames: int = Field(
        default=_LIMITS.max_frames, ge=2, description="Frames of one video after sampling."
    )
    max_video_duration_s: float = Field(
        default=_LIMITS.max_video_duration_s,
        gt=0,
        description="Longest video, in seconds of video time.",
    )
    video_timeout_s: float = Field(
        default=_LIMITS.video_timeout_s,
        gt=0,
        description="Seconds that decoding one video may take.",
    )
    load_timeout_s: float = Field(
        default=60.0,
        gt=0,
        le=3600,
        description="Seconds that decoding all media of one request may take, once fetched. "
        "Waiting for threads that other requests use counts; after it the answer is a 503.",
    )
    max_video_worker_bytes: int = Field(
        default=_LIMITS.max_video_worker_bytes,
        ge=256 * _MIB,
        description="Address space of one process that decodes videos.",
    )
    max_items_per_request: int = Field(
        default=64, ge=0, le=4096, description="Images and videos in one request."
    )
    http_allowed: bool = Field(default=False, description="Fetch http:// URLs as well as https://.")
    allowed_domains: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...], NoDecode, BeforeValidator(_split_commas)
    ] = Field(
        default=(),
        description="Host names that media are fetched from, separated by commas; "
        "`*.example.com` is every name below. Empty: any host with a public address.",
    )
    denied_domains: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...], NoDecode, BeforeValidator(_split_commas)
    ] = Field(
        default=(), description="Host names that media are not fetched from, written the same way."
    )
    allowed_local_media_path: Path | None = Field(
        default=None,
        description="Folder from below which `file://` URLs are read. Default: none are.",
    )
    connect_timeout_s: float = Field(
        default=5.0, gt=0, le=300, description="Seconds for one connection to a media host."
    )
    fetch_timeout_s: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="Seconds for fetching one media URL, redirects included.",
    )
    max_redirects: int = Field(
        default=3, ge=0, le=10, description="Redirects followed for one media URL."
    )
    max_parallel_fetches: int = Field(
        default=32, ge=1, le=1024, description="Media URLs fetched at once, over all requests."
    )
    max_parallel_fetches_per_host: int = Field(
        default=8, ge=1, le=1024, description="The same of one host."
    )
    num_workers: int = Field(
        default_factory=_count_cores,
        ge=1,
        le=1024,
        description="Threads that decode and resize. Default: the CPU cores of this process.",
    )

    @field_validator("allowed_domains", "denied_domains")
    @classmethod
    def _check_domains(cls, domains: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(ascii_domain, domains))

    @field_validator("allowed_local_media_path")
    @classmethod
    def _check_folder(cls, folder: Path | None) -> Path | None:
        if folder is not None and not folder.is_dir():
            raise ValueError("must be a folder")
        return folder

    @field_validator("max_total_decoded_bytes")
    @classmethod
    def _check_total(cls, num_bytes: int, others: ValidationInfo) -> int:
        least = others.data.get("max_decoded_bytes", 0)  # absent if it is wrong itself
        if num_bytes < least:
            raise ValueError(f"must be at least max_decoded_bytes ({least})")
        return num_bytes

    @property
    def limits(self) -> MediaLimits:
        """The ceilings that `multimodal` checks."""
        names = MediaLimits.__dataclass_fields__
        return MediaLimits(**{name: getattr(self, name) for name in names})


class EngineSettings(_Group):
    """The model and the engine that runs it. `None` leaves the choice to the profile."""

    model: str = Field(
        default=EMBEDDED_MODEL,
        min_length=1,
        description="Local folder or Hugging Face name; `demo` is embedded.",
    )
    revision: str | None = Field(default=None, description="Branch, tag or commit on Hugging Face.")
    served_model_name: str | None = Field(
        default=None, min_length=1, description="Name that requests use; default: `model`."
    )
    profile: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Set of engine defaults; `auto` looks for a GPU."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="Type of weights and activations."
    )
    max_model_len: int | None = Field(
        default=None,
        ge=16,
        description="Most tokens of prompt and answer together; refused at start if the KV cache "
        "cannot hold them. Default: the checkpoint's, or as many as the KV cache holds.",
    )
    rope_scaling: Literal["none", "yarn-512k", "yarn-1m"] = Field(
        default="none",
        description="YaRN for a longer context: of 262,144 tokens `yarn-512k` makes 524,288 "
        "(factor 2), `yarn-1m` 1,000,000 (factor 3), of others in proportion.",
    )
    max_num_seqs: int | None = Field(
        default=None, ge=1, description="Sequences in one engine step."
    )
    max_num_batched_tokens: int | None = Field(
        default=None, ge=1, description="Tokens in one engine step."
    )
    fair_prefill: bool = Field(
        default=True,
        description="Long prompts leave a part of each step to shorter ones, and are passed by "
        "them while they wait for KV cache; off: first come, first served.",
    )
    kv_cache_bytes: int | None = Field(
        default=None, ge=1, description="Memory for the KV cache; 2 GiB at most on a CPU."
    )
    kv_cache_dtype: Literal["auto", "fp8"] = Field(
        default="auto", description="Type of the KV cache: the model's, or FP8 (E4M3)."
    )
    gpu_memory_utilization: float | None = Field(
        default=None, gt=0, le=1, description="Share of GPU memory that the engine may use."
    )
    tensor_parallel_size: int = Field(
        default=1, ge=1, description="GPUs, or processes on a CPU, that share each layer."
    )
    pipeline_parallel_size: int = Field(
        default=1, ge=1, description="GPUs, or processes on a CPU, with some of the layers each."
    )
    data_parallel_size: int = Field(
        default=1, ge=1, description="Engines that share the requests, each with its own GPUs."
    )
    enable_expert_parallel: bool = Field(
        default=False,
        description="Spread whole experts over all GPUs, those of other engines included (MoE "
        "checkpoints).",
    )
    enable_eplb: bool = Field(
        default=False,
        description="Move experts between the GPUs as their load changes (expert parallel).",
    )
    num_redundant_experts: int = Field(
        default=0, ge=0, description="Copies of busy experts in each layer, for `enable_eplb`."
    )
    distributed_executor_backend: Literal["mp", "ray"] | None = Field(
        default=None,
        description="What starts the processes that share the model: `mp` here and on the other "
        "machines of `nnodes`, `ray` on those of a Ray cluster. Default: `mp`.",
    )
    nnodes: int = Field(
        default=1,
        ge=1,
        description="Machines that share the model with `mp`; each has the same settings, but for "
        "`node_rank`.",
    )
    node_rank: int = Field(
        default=0,
        ge=0,
        description="Which of them this is; 0 serves, the others only compute. Below `nnodes`.",
    )
    master_addr: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address of machine 0, as the others reach it.",
    )
    master_port: int = Field(
        default=29501, ge=1, le=65535, description="Port on which machine 0 meets the others."
    )
    enforce_eager: bool | None = Field(default=None, description="Run without compiled graphs.")
    speculative_config: Annotated[
        dict[str, Any] | None, NoDecode, BeforeValidator(_parse_mapping)
    ] = Field(
        default=None,
        min_length=1,
        description="vLLM's, for speculative decoding: JSON, or a mapping in the YAML file, of "
        "`method`, `num_speculative_tokens`, `model` and others.",
    )
    enable_sleep_mode: bool = Field(
        default=False,
        description="Let clients put the engine to sleep, by `/sleep`; needs a GPU.",
    )
    mm_encoder_tp_mode: Literal["weights", "data"] = Field(
        default="weights",
        description="What GPUs or processes that share each layer share of the vision tower: its "
        "weights, or (`data`) the images and frames of a step, with all weights in each of them.",
    )
    mm_encoder_attn_backend: str | None = Field(
        default=None,
        min_length=1,
        description="vLLM's name of the attention kernels of the vision tower, `FLASH_ATTN` for "
        "example. Default: vLLM's choice.",
    )
    cudagraph_mm_encoder: bool = Field(
        default=False, description="Run the vision tower from CUDA graphs; not on a CPU."
    )
    role: Literal["both", "encoder", "language"] = Field(
        default="both",
        description="What of the model this process runs: only the vision tower (`encoder`), for "
        "processes that run only the language model (`language`). They share a vision cache.",
    )
    encoder_url: str | None = Field(
        default=None,
        validate_default=True,
        description="Where a `language` process finds its encoder process: http://HOST:PORT.",
    )
    encoder_key_file: Path | None = Field(
        default=None,
        description="File with the API key that it shows to the encoder process, as plain text. "
        "Default: it shows none.",
    )
    restart_engine: bool = Field(
        default=False,
        description="Start an engine that has died again in this process, instead of ending it; "
        "five times in a row at most.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of the engine's random numbers.")
    enable_lora: bool = Field(
        default=False, description="Take LoRA adapters, which requests name as their model."
    )
    max_loras: int = Field(default=1, ge=1, description="LoRA adapters in one engine step.")
    max_lora_rank: int = Field(
        default=16, description="Largest rank of a LoRA adapter: 1, 8, 16, 32, 64, 128, 256, ..."
    )
    max_cpu_loras: int = Field(
        default=16,
        ge=1,
        validate_default=True,
        description="LoRA adapters loaded at once; at least `max_loras`.",
    )
    lora_modules: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:/@+-]{1,128}=.+$")], ...],
        NoDecode,
        BeforeValidator(_split_commas),
    ] = Field(
        default=(),
        description="LoRA adapters loaded at start: `name=folder`, separated by commas.",
    )
    lora_dir: Path | None = Field(
        default=None,
        description="Folder from below which clients may load LoRA adapters, and unload any. "
        "Default: none, clients may not.",
    )

    @field_validator("max_lora_rank")
    @classmethod
    def _check_lora_rank(cls, rank: int) -> int:
        if rank not in _LORA_RANKS:
            raise ValueError(f"must be one of {', '.join(map(str, _LORA_RANKS))}")
        return rank

    @field_validator("max_cpu_loras")
    @classmethod
    def _check_lora_room(cls, num_loras: int, others: ValidationInfo) -> int:
        least = others.data.get("max_loras", 0)  # absent if it is wrong itself
        if num_loras < least:
            raise ValueError(f"must be at least max_loras ({least})")
        return num_loras

    @field_validator("enable_lora")
    @classmethod
    def _check_lora(cls, value: bool, others: ValidationInfo) -> bool:
        """The rows of a picture must be where vLLM's layers expect its adapter."""
        given = others.data
        if value and given.get("role") != "both":
            raise ValueError("needs both halves of the model: role must be both")
        if value and given.get("cudagraph_mm_encoder"):
            raise ValueError("cudagraph_mm_encoder must be off")
        if value and not _shares_weights(given):
            raise ValueError("mm_encoder_tp_mode must be weights")
        return value

    @field_validator("lora_modules", "lora_dir")
    @classmethod
    def _check_lora_enabled(cls, value: object, others: ValidationInfo) -> object:
        if value and not others.data.get("enable_lora"):
            raise ValueError("needs enable_lora")
        return value

    @field_validator("nnodes")
    @classmethod
    def _check_backend(cls, nnodes: int, others: ValidationInfo) -> int:
        if nnodes > 1 and others.data.get("distributed_executor_backend") == "ray":
            raise ValueError("must be 1 with ray, which knows its own machines")
        return nnodes

    @field_validator("node_rank")
    @classmethod
    def _check_node_rank(cls, node_rank: int, others: ValidationInfo) -> int:
        nnodes = others.data.get("nnodes", node_rank + 1)  # absent if it is wrong itself
        if node_rank >= nnodes:
            raise ValueError(f"must be below nnodes ({nnodes})")
        return node_rank

    @field_validator("restart_engine")
    @classmethod
    def _check_restart(cls, value: bool, others: ValidationInfo) -> bool:
        given = others.data
        elsewhere = given.get("nnodes", 1) > 1 or given.get("distributed_executor_backend") == "ray"
        if value and elsewhere:
            raise ValueError("needs all processes of the engine on this machine, without ray")
        return value

    @field_validator("role")
    @classmethod
    def _check_role(cls, role: str, others: ValidationInfo) -> str:
        given = others.data  # without those that are wrong themselves
        if role == "encoder":
            if given.get("pipeline_parallel_size", 1) > 1:
                raise ValueError("an encoder has no pipeline: pipeline_parallel_size must be 1")
            if given.get("tensor_parallel_size", 1) > 1 and _shares_weights(given):
                raise ValueError("an encoder shares no layers: mm_encoder_tp_mode must be data")
        if role == "language" and given.get("cudagraph_mm_encoder"):
            raise ValueError("has no vision tower for cudagraph_mm_encoder")
        return role

    @field_validator("encoder_key_file")
    @classmethod
    def _check_encoder_key(cls, path: Path | None, others: ValidationInfo) -> Path | None:
        if path is not None and others.data.get("role") != "language":
            raise ValueError("only the role `language` has an encoder elsewhere")
        return path

    @field_validator("encoder_url")
    @classmethod
    def _check_encoder_url(cls, url: str | None, others: ValidationInfo) -> str | None:
        role = others.data.get("role")
        if role == "language" and url is None:
            raise ValueError("the role `language` needs it")
        if url is not None:
            if role != "language":
                raise ValueError("only the role `language` has an encoder elsewhere")
            if not re.fullmatch(r"https?://[^/?#\s@]+/?", url):
                raise ValueError("must be http://HOST:PORT")
        return url


def _shares_weights(given: Mapping[str, Any]) -> bool:
    return bool(given.get("mm_encoder_tp_mode", "weights") == "weights")


class CacheSettings(_Group):
    """What is remembered of images and videos, and where."""

    device_bytes: int | None = Field(
        default=None,
        ge=0,
        description="Embeddings kept on the model's device; at least the largest item's. Default: "
        "those of one engine step, or the largest item's.",
    )
    host_dir: str | None = Field(
        default=None,
        min_length=1,
        description="Folder of the host tier, in memory; default: one of this user in /dev/shm.",
    )
    host_bytes: int | None = Field(
        default=None,
        ge=0,
        description="Budget of the host tier; 0 turns it off. Default: a quarter of the shared "
        "memory that is free, 8 GiB at most.",
    )
    disk_dir: str | None = Field(
        default=None,
        min_length=1,
        description="Folder of the disk tier, which several servers may share. Default: none.",
    )
    disk_bytes: int = Field(
        default=64 * 1024 * _MIB, ge=1, description="Budget of the disk tier, over all servers."
    )
    tenant_salt: Literal["api_key", "none"] = Field(
        default="api_key",
        description="Whether clients with different API keys share cached images, videos and "
        "beginnings of prompts (`none`) or not (`api_key`).",
    )


class ThinkingSettings(_Group):
    """How thinking is cut short when its budget is used up."""

    early_stopping_text: str = Field(
        default=(
            "Considering the limited time by the user, I have to give the solution based on the "
            "thinking directly now."
        ),
        max_length=1000,
        description="Sentence put behind the thinking, before it is closed; may be empty.",
    )


class GrammarSettings(_Group):
    """What a client's schema, pattern or grammar may cost before it is refused."""

    compile_timeout_s: float = Field(
        default=15.0,
        gt=0,
        le=600,
        description="Seconds of processor time to compile one and to try it out.",
    )
    compile_max_bytes: int = Field(
        default=2048 * _MIB,
        ge=64 * _MIB,
        description="Memory for one, beside the libraries and the vocabulary.",
    )


class ResponsesSettings(_Group):
    """The Responses API's memory of its answers."""

    store_max_bytes: int = Field(
        default=64 * _MIB,
        ge=0,
        description="Memory for responses kept for `previous_response_id`; 0 keeps none.",
    )
    store_ttl_s: float = Field(
        default=3600.0, gt=0, description="Seconds after which a kept response is forgotten."
    )


class ObservabilitySettings(_Group):
    """What is told of requests, besides the log and `/metrics`."""

    otlp_traces_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://\S+$",
        description="Where traces of requests are sent by OTLP: `http://collector:4317`, or "
        "`http://collector:4318/v1/traces` if OTEL_EXPORTER_OTLP_TRACES_PROTOCOL is "
        "`http/protobuf` (default: `grpc`). Default: nowhere.",
    )


class Settings(BaseSettings):
    """All settings. Tests build it directly; a process calls `load_settings`."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter=ENV_DELIMITER,
        extra="forbid",
        frozen=True,
    )

    server: ServerSettings = Field(default_factory=ServerSettings)
    access: AccessSettings = Field(default_factory=AccessSettings)
    media: MediaSettings = Field(default_factory=MediaSettings)
    engine: EngineSettings = Field(default_factory=EngineSettings)
    cache: CacheSettings = Field(default_factory=CacheSettings)
    thinking: ThinkingSettings = Field(default_factory=ThinkingSettings)
    grammar: GrammarSettings = Field(default_factory=GrammarSettings)
    responses: ResponsesSettings = Field(default_factory=ResponsesSettings)
    observability: ObservabilitySettings = Field(default_factory=ObservabilitySettings)

    @property
    def has_page(self) -> bool:
        """For people, at `/`. A process that only encodes answers no questions."""
        return self.server.ui and self.engine.role != "encoder"

    @model_validator(mode="after")
    def _check_workers(self) -> Self:
        """What changes in one process, the others would not know."""
        for name in ("lora_dir", "enable_sleep_mode", "restart_engine"):
            if self.server.api_workers > 1 and getattr(self.engine, name):
                raise ValueError(f"engine.{name}: needs server.api_workers to be 1")
        return self


def load_settings(config_path: Path | None, overrides: Mapping[str, Any]) -> Settings:
    """Read all sources and check every name in them.

    Args:
        config_path: YAML file with the groups as its top-level keys; None for no file.
        overrides: nested like the file, `{"server": {"port": 9000}}`; wins over everything else.
    Raises: SettingsError naming every unknown or wrong variable, key and value.
    """
    _refuse_unknown_variables(os.environ)
    file_values = _read_yaml(config_path) if config_path is not None else {}

    class LayeredSettings(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, file_values)

    try:
        return LayeredSettings(**overrides)
    except ValidationError as error:
        raise SettingsError("\n".join(_describe_faults(error))) from error


def client_api_key() -> str | None:
    """The key that `qwen3vl-serve chat` sends, if the environment has one."""
    return os.environ.get("OPENAI_API_KEY") or None


def set_library_defaults() -> None:
    """What libraries read from the environment when they are loaded; call it before importing them.

    Waiting OpenMP threads spin by default, one on each core, so that anything else that uses a core
    delays every token: 40 tokens took 5.3 s instead of 0.1 s at worst.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def share_metrics(folder: Path) -> None:
    """Let several processes count together; call it before `prometheus_client` is imported."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)


def otlp_protocol() -> OtlpProtocol:
    """As OpenTelemetry's variables have it. Raises: SettingsError."""
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        given = os.environ.get(name)
        if given == "http/protobuf":
            return "http/protobuf"
        if given == "grpc":
            break
        if given:
            raise SettingsError(f"{name}: must be grpc or http/protobuf (given: {given!r})")
    return "grpc"


def are_metrics_shared() -> bool:
    return "PROMETHEUS_MULTIPROC_DIR" in os.environ


def render_settings_table() -> str:
    """The settings as a markdown table, for docs/settings.md: name, variable, default, meaning."""
    rows = ["| Setting | Environment variable | Default | Meaning |", "|---|---|---|---|"]
    for name, field in iterate_fields():
        rows.append(
            f"| `{name}` | `{_variable_name(name)}` | {_describe_default(field)} "
            f"| {field.description} |"
        )
    return "\n".join(rows) + "\n"


def iterate_fields() -> Iterator[tuple[str, FieldInfo]]:
    """(`group.field`, its definition) of every setting, in order."""
    for group_name, group in Settings.model_fields.items():
        assert isinstance(group.annotation, type) and issubclass(group.annotation, _Group)
        for name, field in group.annotation.model_fields.items():
            yield f"{group_name}.{name}", field


def _variable_name(name: str) -> str:
    return ENV_PREFIX + name.replace(".", ENV_DELIMITER).upper()


def _describe_default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "CPU cores"  # the one default that depends on the machine
    if field.default is None or field.default == ():
        return "-"
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


def _refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    """pydantic-settings itself passes over a variable whose group it does not know."""
    known = {_variable_name(name) for name, _ in iterate_fields()}
    given = {name for name in environ if name.upper().startswith(ENV_PREFIX)}
    unknown = sorted(name for name in given if name.upper() not in known)
    if unknown:
        raise SettingsError(f"unknown environment variables: {', '.join(unknown)}")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{path}: cannot be read as YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: must hold the groups {', '.join(Settings.model_fields)}")
    return content


def _describe_faults(error: ValidationError) -> Iterator[str]:
    """One line per fault: `server.port (QWEN3VL_SERVER__PORT): ... (given: 99999)`."""
    known = {name for name, _ in iterate_fields()}
    for fault in error.errors(include_url=False):
        name = ".".join(str(part) for part in fault["loc"])
        if not name:  # of settings together
            yield fault["msg"].removeprefix("Value error, ")
        elif fault["type"] == "extra_forbidden":
            yield f"{name}: unknown setting"
        else:
            variable = f" ({_variable_name(name)})" if name in known else ""
            message = fault["msg"].removeprefix("Value error, ")
            yield f"{name}{variable}: {message} (given: {fault['input']!r})"
