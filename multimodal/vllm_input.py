"""Visual items in vLLM's form. The field names are those of the reference processor."""

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import torch
from vllm.inputs.engine import mm_input, tokens_input
from vllm.multimodal.inputs import (
    MultiModalFieldConfig,
    MultiModalKwargsItem,
    MultiModalKwargsItems,
    PlaceholderRange,
)

from multimodal.items import PlacedItem, VisualItem

_PATCHES_FIELD = {"image": "pixel_values", "video": "pixel_values_videos"}


def engine_input(
    prompt_token_ids: Sequence[int],
    items: Sequence[PlacedItem],
    lora_int_id: int | None = None,
    cache_salt: str | None = None,
) -> Any:
    """The `EngineInput` of an expanded prompt, ready for `AsyncLLM.generate` or `LLM`.

    Args:
        lora_int_id: the adapter that the items are encoded with, 0 for none; None, for all
            requests, if the engine has no adapters.
        cache_salt: only requests with the same one share what is in the prefix cache.
    """
    if not items:
        return tokens_input(list(prompt_token_ids), cache_salt=cache_salt)
    modalities = sorted({placed.item.modality for placed in items})
    by_modality = {m: [p for p in items if p.item.modality == m] for m in modalities}
    return mm_input(
        prompt_token_ids=list(prompt_token_ids),
        mm_kwargs=MultiModalKwargsItems(
            {
                m: [_kwargs_item(p.item, lora_int_id) for p in placed]
                for m, placed in by_modality.items()
            }
        ),
        mm_hashes={m: [p.item.key for p in placed] for m, placed in by_modality.items()},
        mm_placeholders={
            m: [PlaceholderRange(offset=p.offset, length=p.num_tokens) for p in placed]
            for m, placed in by_modality.items()
        },
        cache_salt=cache_salt,
    )


def patches_of(item: Mapping[str, Any]) -> torch.Tensor | None:
    """The uint8 patches of a visual item in vLLM's form, or None if it came without."""
    for field in _PATCHES_FIELD.values():
        if field in item:
            patches: torch.Tensor = item[field].data
            return patches
    return None


def grid_of(item: Mapping[str, Any], modality: str) -> tuple[int, int]:
    """(height, width) in patches of a visual item in vLLM's form."""
    _, height, width = item[f"{modality}_grid_thw"].data.tolist()
    return height, width


def lora_int_id_of(item: Mapping[str, Any], modality: str) -> int | None:
    """The adapter that a visual item in vLLM's form is encoded with; see `engine_input`."""
    field = item.get(f"{modality}_lora_int_id")
    return None if field is None else int(field.data.item())


def use_plain_keys(input_processor: Any) -> None:
    """Keep vLLM's `InputProcessor` from putting the adapter's name before an item's key.

    Our keys say which adapter's vision tower they are of; other adapters share the base model's.
    """
    config = copy(input_processor.lora_config)  # the engine needs the original
    config.enable_tower_connector_lora = False
    input_processor.lora_config = config


def _kwargs_item(item: VisualItem, lora_int_id: int | None) -> MultiModalKwargsItem:
    # The grid stays on the host: M-RoPE reads it there, and vLLM drops all other tensors of an item
    # that the prefix cache covers.
    grid = MultiModalFieldConfig.batched(item.modality, keep_on_cpu=True)
    grid_thw = torch.tensor([[1, item.grid_h, item.grid_w]])
    grid_field, patches_field = f"{item.modality}_grid_thw", _PATCHES_FIELD[item.modality]
    fields = {grid_field: grid.build_elems(grid_field, grid_thw)[0]}
    if lora_int_id is not None:
        lora_field = f"{item.modality}_lora_int_id"
        fields[lora_field] = grid.build_elems(lora_field, torch.tensor([[lora_int_id]]))[0]
    if item.patches is not None:
        patches = MultiModalFieldConfig.flat(item.modality, [slice(0, item.patches.shape[0])])
        fields[patches_field] = patches.build_elems(patches_field, item.patches)[0]
    return MultiModalKwargsItem(fields)
