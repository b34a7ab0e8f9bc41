"""How long the context may be: as the checkpoint has it, or stretched by YaRN."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import AutoConfig

from server.settings import EngineSettings, SettingsError

_PUBLISHED_LENGTH = 262_144  # of the checkpoints that the published YaRN lengths are for


@dataclass(frozen=True, slots=True)
class ContextLength:
    """What to ask vLLM for.

    Attributes:
        num_tokens: of prompt and answer together, if the KV cache holds them.
        hf_overrides: what vLLM must change in the checkpoint's configuration for it.
    """

    num_tokens: int
    hf_overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Yarn:
    """`max_model_len` of a checkpoint with `_PUBLISHED_LENGTH`.

    It may exceed the factor: a picture's tokens are more than the positions they take.
    """

    factor: float
    max_model_len: int


_YARN = {"yarn-512k": _Yarn(2.0, 524_288), "yarn-1m": _Yarn(3.0, 1_000_000)}


def find_context_length(model: str, settings: EngineSettings) -> ContextLength:
    """Read the checkpoint's configuration.

    Args:
        model: a local folder or a Hugging Face repository name.
    Raises: SettingsError if `max_model_len` exceeds what the model can place, or if `rope_scaling`
        is set for a checkpoint that is scaled already.
    """
    text_config = AutoConfig.from_pretrained(model, revision=settings.revision).text_config
    longest: int = text_config.max_position_embeddings
    overrides: dict[str, Any] = {}
    if settings.rope_scaling != "none":
        yarn = _YARN[settings.rope_scaling]
        overrides["rope_parameters"] = _yarn_parameters(text_config, yarn.factor)
        longest = longest * yarn.max_model_len // _PUBLISHED_LENGTH
    num_tokens = settings.max_model_len or longest
    if num_tokens > longest:
        raise SettingsError(
            f"engine.max_model_len: {num_tokens} is more than the {longest} tokens that the "
            f"checkpoint has with rope_scaling `{settings.rope_scaling}`"
        )
    if num_tokens != text_config.max_position_embeddings:
        overrides["max_position_embeddings"] = num_tokens
    return ContextLength(num_tokens, {"text_config": overrides} if overrides else {})


def _yarn_parameters(text_config: Any, factor: float) -> dict[str, Any]:
    """The checkpoint's own base and M-RoPE sections, in YaRN's form."""
    rope_parameters: dict[str, Any] = text_config.rope_parameters
    if rope_parameters["rope_type"] != "default":
        raise SettingsError(
            "engine.rope_scaling: the checkpoint is scaled already "
            f"(rope_type `{rope_parameters['rope_type']}`)"
        )
    return rope_parameters | {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": text_config.max_position_embeddings,
    }
