"""Prompt layout: the template's one placeholder per media part -> the model's token sequence."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from multimodal.items import LoadedMedia, Modality, PlacedItem


@dataclass(frozen=True, slots=True)
class VisionTokens:
    """Token ids of a checkpoint's vision markers."""

    vision_start: int
    vision_end: int
    image_pad: int
    video_pad: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Args: config: the checkpoint's `config.json`. Raises: KeyError."""
        return cls(
            vision_start=config["vision_start_token_id"],
            vision_end=config["vision_end_token_id"],
            image_pad=config["image_token_id"],
            video_pad=config["video_token_id"],
        )


@dataclass(frozen=True, slots=True)
class ExpandedPrompt:
    """The final prompt. `items` stand in prompt order."""

    token_ids: tuple[int, ...]
    items: tuple[PlacedItem, ...]

    def count_tokens(self, modality: Modality) -> int:
        """Placeholder tokens of one modality."""
        return sum(placed.num_tokens for placed in self.items if placed.item.modality == modality)


def expand_prompt(
    token_ids: Sequence[int],
    media: Sequence[LoadedMedia],
    tokens: VisionTokens,
    encode_text: Callable[[str], Sequence[int]],
    merge_size: int = 2,
) -> ExpandedPrompt:
    """Give every visual item its placeholders.

    An image's `<|image_pad|>` is repeated once per LLM token. A video's `<|video_pad|>` becomes,
    per temporal patch, `<0.2 seconds>`, `<|vision_start|>`, the pads, `<|vision_end|>`; the pair
    that the template puts around it stays. Timestamps are tokenised on their own, which equals
    tokenising the whole text because special tokens stand on both sides.

    Args:
        token_ids: the rendered template, one pad token per media part.
        media: images and videos, each in the order of their pads.
        encode_text: plain text -> token ids, without special tokens.
    Raises: ValueError if the number of pads and media parts differs.
    Source: transformers 5.19 Qwen3VLProcessor; held by tests/parity/test_preprocessing_goldens.py.
    """
    queues = {
        tokens.image_pad: iter([m for m in media if m.modality == "image"]),
        tokens.video_pad: iter([m for m in media if m.modality == "video"]),
    }
    expanded: list[int] = []
    placed: list[PlacedItem] = []
    for token_id in token_ids:
        queue = queues.get(token_id)
        if queue is None:
            expanded.append(token_id)
            continue
        part = _next_part(queue)
        for index, item in enumerate(part.items):
            if part.modality == "video":
                expanded += encode_text(f"<{part.timestamps[index]:.1f} seconds>")
                expanded.append(tokens.vision_start)
            num_tokens = item.grid_h * item.grid_w // merge_size**2
            placed.append(PlacedItem(item, offset=len(expanded), num_tokens=num_tokens))
            expanded += [token_id] * num_tokens
            if part.modality == "video":
                expanded.append(tokens.vision_end)
    if any(next(queue, None) is not None for queue in queues.values()):
        raise ValueError("more media parts than placeholders in the prompt")
    return ExpandedPrompt(tuple(expanded), tuple(placed))


def _next_part(queue: Iterator[LoadedMedia]) -> LoadedMedia:
    part = next(queue, None)
    if part is None:
        raise ValueError("more placeholders in the prompt than media parts")
    return part
