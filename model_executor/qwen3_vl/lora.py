"""LoRA on Qwen3-VL under vLLM: which adapter each visual item is encoded with, and what adapters
may change.

vLLM tells the vision tower once per step which rows belong to which adapter. That is not enough
here: a step may run the tower several times (images, videos, patches that were handed over), so the
items name their adapters themselves and the tower is told before each run.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vllm.lora.layers import LoRAMapping, LoRAMappingType

from model_executor.hub_layout import Shape, hub_tensors
from model_executor.qwen3_vl.checkpoint import HUB_TO_VLLM


def select_tower_adapters(
    manager: Any, lora_int_ids: Sequence[int], num_tokens: Sequence[int], merge_area: int
) -> None:
    """Set the adapters of the next run of the tower and its mergers.

    Args:
        manager: vLLM's LoRAModelManager.
        lora_int_ids: one per item, 0 for none; all of them active.
        num_tokens: visual tokens per item; the tower sees `merge_area` patches for each.
    """
    counts = list(zip(lora_int_ids, num_tokens, strict=True))
    for kind, factor in ((LoRAMappingType.TOWER, merge_area), (LoRAMappingType.CONNECTOR, 1)):
        rows = tuple(_repeat((lora_id, count * factor) for lora_id, count in counts))
        mapping = LoRAMapping(rows, tuple(lora_int_ids), is_prefill=True, type=kind)
        manager.set_adapter_mapping(mapping)


def _repeat(runs: Iterable[tuple[int, int]]) -> Iterable[int]:
    return (lora_id for lora_id, count in runs for _ in range(count))


def lora_targets(
    config: Any, packed_modules: Mapping[str, Sequence[str]], wrapped: Iterable[str]
) -> dict[str, Shape]:
    """The weights that adapters may change: hub names of modules, with the weights' shapes.

    Args:
        wrapped: names of those modules of ours that vLLM has prepared for adapters.
    """
    parents = {part: whole for whole, parts in packed_modules.items() for part in parts}
    shapes = {
        name.removesuffix(".weight"): shape
        for name, shape in hub_tensors(config).items()
        if name.endswith(".weight") and len(shape) == 2
    }
    text = config.text_config
    shapes["lm_head"] = (text.vocab_size, text.hidden_size)  # also if it is tied
    modules = set(wrapped)
    return {name: shape for name, shape in shapes.items() if _our_name(name, parents) in modules}


def _our_name(hub_name: str, parents: Mapping[str, str]) -> str:
    """`model.language_model.layers.0.self_attn.q_proj` -> `language_model...self_attn.qkv_proj`."""
    (name,) = HUB_TO_VLLM.apply_list([f"{hub_name}.weight"])
    parent, _, last = str(name).removesuffix(".weight").rpartition(".")
    last = parents.get(last, last)
    return f"{parent}.{last}"
