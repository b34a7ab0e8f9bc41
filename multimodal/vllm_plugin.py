"""Entry point of `vllm.general_plugins`: puts our Qwen3-VL in place of vLLM's own.

vLLM calls `register()` once in every process it starts. Nothing heavy is imported here; the model
classes are named as strings and imported where they are used. It lives outside `model_executor`
because vLLM's own imports take that name away before plugins are loaded; see `_free_package_name`.
"""

import logging
import sys
from importlib.util import find_spec

MIN_VLLM = (0, 32)
MAX_VLLM = (0, 34)  # exclusive
ARCHITECTURES = {
    "Qwen3VLForConditionalGeneration": ("model_executor.qwen3_vl:Qwen3VLForConditionalGeneration"),
    "Qwen3VLMoeForConditionalGeneration": (
        "model_executor.qwen3_vl:Qwen3VLMoeForConditionalGeneration"
    ),
}
REASONING_GATE = "qwen3vl_serve"  # the name of our reasoning parser
# What LoRA adapters may change, in vLLM's names. Not the experts, whose only kernel is Triton's.
LORA_TARGET_MODULES = (
    *("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    *("qkv", "proj", "linear_fc1", "linear_fc2"),  # vision tower and mergers
    *("embed_tokens", "lm_head"),
)
# Modules whose place moved between vLLM releases; each is imported by our model or processor.
_NEEDED_MODULES = (
    "vllm.inputs.engine",
    "vllm.model_executor.layers.attention.mm_encoder_attention",
    "vllm.model_executor.models.interfaces",
    "vllm.multimodal.processing",
    "vllm.reasoning.basic_parsers",
)


def register() -> None:
    """Register both architectures under their stock names, and the reasoning gate.

    And keep prompts out of the log of an engine that dies.

    Safe to call more than once.

    Raises: RuntimeError if the installed vLLM is not one that this plugin is built for. vLLM lets
        exceptions from here stop the start, whereas a plugin that fails to import is only logged.
    """
    import vllm
    from vllm import ModelRegistry
    from vllm.reasoning import ReasoningParserManager

    check_vllm_version(vllm.__version__)
    missing = [name for name in _NEEDED_MODULES if find_spec(name) is None]
    if missing:
        raise RuntimeError(f"vLLM {vllm.__version__} lacks {', '.join(missing)}")
    _free_package_name()
    for architecture, model_class in ARCHITECTURES.items():
        ModelRegistry.register_model(architecture, model_class)
    ReasoningParserManager.register_lazy_module(
        REASONING_GATE, "model_executor.reasoning_gate", "ReasoningGate"
    )
    # writes sampling parameters, grammars among them, and visual items of the step that has failed
    logging.getLogger("vllm.logging_utils.dump_input").disabled = True


def check_vllm_version(version: str) -> None:
    """Raises: RuntimeError unless MIN_VLLM <= version < MAX_VLLM."""
    major, minor = (int(part) for part in version.split(".")[:2])
    if not MIN_VLLM <= (major, minor) < MAX_VLLM:
        raise RuntimeError(
            f"qwen3vl-serve supports vLLM >= {MIN_VLLM[0]}.{MIN_VLLM[1]}, "
            f"< {MAX_VLLM[0]}.{MAX_VLLM[1]}; installed is {version}"
        )


def _free_package_name() -> None:
    """Make `import model_executor` mean our package again.

    `vllm.config` holds lazy loaders with the local name "model_executor", and a lazy loader of vLLM
    0.32 and 0.33 enters its target into `sys.modules` under its local name when it is first used.
    """
    from vllm.config import model, speculative

    for module in (model, speculative):
        for attribute, loader in vars(module).items():
            if getattr(loader, "__dict__", {}).get("_local_name") == "model_executor":
                loader._local_name = attribute
    package = sys.modules.get("model_executor")
    if package is not None and package.__name__ != "model_executor":
        del sys.modules["model_executor"]
