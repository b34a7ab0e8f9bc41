"""The sizes in a checkpoint's `config.json`, under transformers' names.

The dataclasses stand where a transformers configuration would, for `hub_tensors` among others:
importing transformers takes seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from model_executor.sizing.published import FP8_CONFIG, is_published, published_checkpoint
from model_executor.sizing.quantization import Quantization, read_quantization
from multimodal.checkpoint_files import read_checkpoint_json

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_AUTO_FOR_FLOAT32 = "bfloat16"  # vLLM's `auto` never runs a float32 checkpoint in float32
_Config = TypeVar("_Config", "TextConfig", "VisionConfig")


class UnknownModel(Exception):
    """There is no configuration, or it is not one of Qwen3-VL; the message says which."""


@dataclass(frozen=True, slots=True)
class TextConfig:
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    max_position_embeddings: int
    num_experts: int = 0
    num_experts_per_tok: int = 0
    moe_intermediate_size: int = 0
    decoder_sparse_step: int = 1
    mlp_only_layers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class VisionConfig:
    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    out_hidden_size: int
    num_position_embeddings: int
    deepstack_visual_indexes: tuple[int, ...]
    in_channels: int = 3
    patch_size: int = 16
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2

    @property
    def merge_area(self) -> int:
        """Patches that become one visual token."""
        return self.spatial_merge_size**2


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What decides how much memory a model takes.

    Attributes:
        name: as it was asked for.
        dtype: of weights that are not quantised, and of activations.
        quantization: of the language model's linear layers; None if there is none.
    """

    name: str
    text_config: TextConfig
    vision_config: VisionConfig
    tie_word_embeddings: bool
    dtype: str
    quantization: Quantization | None

    @property
    def dtype_bytes(self) -> int:
        return DTYPE_BYTES[self.dtype]

    @property
    def is_moe(self) -> bool:
        return self.text_config.num_experts > 0

    @property
    def embedding_width(self) -> int:
        """Numbers of one visual token: the main features and one more row per DeepStack level."""
        num_levels = len(self.vision_config.deepstack_visual_indexes)
        return self.vision_config.out_hidden_size * (1 + num_levels)


def read_model_shape(
    model: str, revision: str | None = None, dtype: str = "auto", quantization: str | None = None
) -> ModelShape:
    """The shape of a local folder, a published name (no network) or a name on Hugging Face.

    Args:
        dtype: a key of `DTYPE_BYTES`, or `auto`.
        quantization: "fp8" counts an unquantised checkpoint as if it were published in FP8.
    Raises: UnknownModel; OSError if the file can be neither fetched nor found in the local cache.
    """
    if is_published(model):
        config: Mapping[str, Any] | None = published_checkpoint(model)
    else:
        config = read_checkpoint_json(model, "config.json", revision)
    if config is None:
        raise UnknownModel(f"{model} has no config.json here, and is no published Qwen3-VL name")
    if quantization == "fp8" and "quantization_config" not in config:
        config = {**config, "quantization_config": FP8_CONFIG}
    return model_shape(model, config, dtype)


def model_shape(name: str, config: Mapping[str, Any], dtype: str = "auto") -> ModelShape:
    """Args: config: what `config.json` holds. Raises: UnknownModel."""
    text, vision = config.get("text_config"), config.get("vision_config")
    if not isinstance(text, Mapping) or not isinstance(vision, Mapping):
        raise UnknownModel(f"{name}: config.json has no text_config and vision_config")
    if "deepstack_visual_indexes" not in vision:
        raise UnknownModel(f"{name} is not a Qwen3-VL model: no deepstack_visual_indexes")
    return ModelShape(
        name=name,
        text_config=_read(TextConfig, name, _completed(text)),
        vision_config=_read(VisionConfig, name, vision),
        tie_word_embeddings=bool(
            config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
        ),
        dtype=_resolve_dtype(config, dtype),
        quantization=_quantization(name, config),
    )


def _completed(text: Mapping[str, Any]) -> Mapping[str, Any]:
    """transformers 5 saves `num_experts` under another name; `head_dim` has a default."""
    completed = dict(text)
    if "num_local_experts" in text:
        completed.setdefault("num_experts", text["num_local_experts"])
    if text.get("head_dim") is None and {"hidden_size", "num_attention_heads"} <= set(text):
        completed["head_dim"] = text["hidden_size"] // text["num_attention_heads"]
    return completed


def _read(config_class: type[_Config], name: str, values: Mapping[str, Any]) -> _Config:
    known = {field.name for field in fields(config_class)} & set(values)
    given: dict[str, Any] = {
        key: tuple(values[key]) if isinstance(values[key], list) else values[key] for key in known
    }
    try:
        return config_class(**given)
    except TypeError as error:  # it names what is missing
        raise UnknownModel(f"{name}: config.json: {error}") from None


def _resolve_dtype(config: Mapping[str, Any], dtype: str) -> str:
    """As vLLM's `auto` does: the checkpoint's own, bfloat16 instead of float32."""
    if dtype != "auto":
        return dtype
    found = config.get("dtype") or config.get("torch_dtype")
    found = found or config["text_config"].get("dtype") or _AUTO_FOR_FLOAT32
    return _AUTO_FOR_FLOAT32 if found == "float32" or found not in DTYPE_BYTES else str(found)


def _quantization(name: str, config: Mapping[str, Any]) -> Quantization | None:
    try:
        return read_quantization(config.get("quantization_config"))
    except ValueError as error:
        raise UnknownModel(f"{name}: {error}") from None
