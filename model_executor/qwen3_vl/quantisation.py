"""vLLM's form of a checkpoint's `quantization_config`: its patterns, and whether it runs here."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from vllm.model_executor.layers.fused_moe.oracle.fp8 import Fp8MoeBackend
from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts
from vllm.platforms import current_platform

# A pattern that begins with a hub name, after compressed-tensors' or GPTQ's mark.
_HUB_NAME = re.compile(r"^((?:re:|[-+]:)?\^?)model\\?\.(visual|language_model)")
_VLLM_NAMES = {"visual": "visual", "language_model": r"language_model\.model"}


def rename_patterns(quant_config: Any) -> None:
    """Make the patterns of a configuration, which match hub names, match vLLM's.

    vLLM renames what is written out, but leaves patterns as they are (`re:model.visual.*` of
    compressed-tensors, `-:model\\.visual\\..*` of GPTQ).
    """
    for attribute in ("ignore", "target_scheme_map", "dynamic"):
        patterns = getattr(quant_config, attribute, None)
        if isinstance(patterns, dict):
            setattr(quant_config, attribute, {_renamed(name): x for name, x in patterns.items()})
        elif isinstance(patterns, list):
            setattr(quant_config, attribute, [_renamed(name) for name in patterns])


def _renamed(pattern: str) -> str:
    return _HUB_NAME.sub(lambda found: found[1] + _VLLM_NAMES[found[2]], pattern)


def holds_quantised_weights(config: Any, quant_config: Any) -> bool:
    """Whether the checkpoint's own linears are quantised; vLLM can also quantise while it loads.

    Args: config: the model's; quant_config: what vLLM made of it and its own arguments, or None.
    """
    if quant_config is None:
        return False
    is_stated = getattr(config, "quantization_config", None) is not None
    return is_stated or bool(quant_config.get_config_filenames())  # or stated in a file of its own


@contextmanager
def named_quantisation(quant_config: Any) -> Iterator[None]:
    """Around the building of layers, where vLLM chooses kernels.

    Raises: ValueError with the quantisation's name, if vLLM has no kernel for it on this device or
        does not understand its configuration.
    """
    try:
        yield
    except (NotImplementedError, ValueError) as error:
        if quant_config is None:
            raise
        raise ValueError(
            f"vLLM cannot build the model with the checkpoint's quantisation "
            f"{quant_config.get_name()} on this {current_platform.device_type}: {error}"
        ) from error


def require_expert_kernels(model: nn.Module) -> None:
    """Raises: ValueError if vLLM, which finds this out after loading, has none for FP8 experts."""
    methods = (m.quant_method for m in model.modules() if isinstance(m, RoutedExperts))
    if any(getattr(method, "fp8_backend", None) is Fp8MoeBackend.NONE for method in methods):
        raise ValueError("there is no kernel for FP8 experts")
