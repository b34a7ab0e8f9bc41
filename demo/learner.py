"""The forward pass and losses of training, and exact accuracy on drawn batches."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface

from demo.batches import Batch
from demo.samples import COVERS, GLYPHS, MERGE, NO_BOX, PATCH, STEPS

GLYPH_WEIGHT, COVER_WEIGHT, BOX_WEIGHT, PLACE_WEIGHT = 1.0, 0.5, 0.05, 0.05
_NO_GLYPH_WEIGHT = 0.2  # most patches have no centre in them


def plain_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention by matrix products, in the values' dtype.

    For the short sequences of training a step takes 0.7 times as long on a CPU as with torch's own
    kernels, whose backward pass is slow in bfloat16.

    Args:
        query: (B, H, L, D). key, value: (B, H / groups, L, D).
        attention_mask: bool, (B, 1, L, L), true where a query may look.
    Returns: (B, L, H, D)
    """
    groups = query.shape[1] // key.shape[1]
    with torch.autocast(query.device.type, enabled=False):
        query, key = query.to(value.dtype) * scaling, key.to(value.dtype)
        if groups > 1:
            key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
        scores = query @ key.transpose(-1, -2)
        if attention_mask is not None:
            scores = scores.masked_fill(~attention_mask, -1e4)
        mixed = scores.softmax(-1) @ value
    return mixed.transpose(1, 2).contiguous(), None


AttentionInterface.register("plain", plain_attention)


class SeeingHeads(nn.Module):
    """Linear heads on merged visual tokens that say what is seen where; dropped after training."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.glyphs = nn.Linear(hidden_size, MERGE**2 * len(GLYPHS))
        self.covers = nn.Linear(hidden_size, len(COVERS))
        self.boxes = nn.Linear(hidden_size, 4 * (STEPS + 1))
        self.places = nn.Linear(hidden_size, 2 * (STEPS + 1))

    def loss(self, tokens: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Args: tokens: (P / 4, hidden)."""
        common = torch.ones(len(GLYPHS), device=tokens.device)
        common[0] = _NO_GLYPH_WEIGHT
        has_box = batch.boxes[:, 0] != NO_BOX
        return (
            GLYPH_WEIGHT * _cross_entropy(self.glyphs(tokens), batch.glyphs, common)
            + COVER_WEIGHT * _cross_entropy(self.covers(tokens), batch.covers)
            + BOX_WEIGHT * _cross_entropy(self.boxes(tokens[has_box]), batch.boxes[has_box])
            + PLACE_WEIGHT * _cross_entropy(self.places(tokens), batch.places)
        )


def _cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean over all labels; the logits of one token's labels stand side by side."""
    labels = labels.reshape(-1)
    return F.cross_entropy(logits.float().reshape(len(labels), -1), labels, weight)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model makes of a batch.

    Attributes:
        logits: (T, vocabulary), of the tokens that carry weight, row by row.
        visual_tokens: (P / 4, hidden), as they enter the language model.
    """

    logits: torch.Tensor
    visual_tokens: torch.Tensor


def predict(model: Any, batch: Batch) -> Prediction:
    """Run transformers' Qwen3-VL; only its attention mask and positions are ours."""
    seen = model.model.visual(pixel_values(batch.patches), grid_thw=batch.grids)
    language = model.model.language_model
    embeds = language.embed_tokens(batch.token_ids)
    is_visual = (batch.token_ids == model.config.image_token_id) | (
        batch.token_ids == model.config.video_token_id
    )
    hidden = language(
        inputs_embeds=embeds.masked_scatter(
            is_visual[..., None], seen.pooler_output.to(embeds.dtype)
        ),
        attention_mask=batch.attention,
        position_ids=batch.positions,
        visual_pos_masks=is_visual,
        deepstack_visual_embeds=seen.deepstack_features,
        use_cache=False,
    ).last_hidden_state
    is_next_asked = batch.weights[:, 1:] > 0
    return Prediction(model.lm_head(hidden[:, :-1][is_next_asked]), seen.pooler_output)


def pixel_values(patches: torch.Tensor) -> torch.Tensor:
    """(P, 1536) uint8 (frame, row, column, RGB) -> float32 -1..1 (RGB, frame, row, column)."""
    rows = patches.view(-1, 2, PATCH, PATCH, 3).permute(0, 4, 1, 2, 3)
    return rows.reshape(len(patches), -1).float() / 127.5 - 1.0


def answer_loss(prediction: Prediction, batch: Batch) -> torch.Tensor:
    """Weighted cross entropy of the answers' tokens."""
    weights = batch.weights[:, 1:]
    is_asked = weights > 0
    targets, weights = batch.token_ids[:, 1:][is_asked], weights[is_asked]
    each = F.cross_entropy(prediction.logits.float(), targets, reduction="none")
    return (each * weights).sum() / weights.sum()


@torch.no_grad()
def accuracies(model: Any, batches: Iterable[Batch]) -> dict[str, float]:
    """Share of each skill's answers of which every token is the most likely one.

    That is what greedy decoding gets exactly right, thoughts included. `box` is judged by the digit
    here, so it stays low.
    """
    right: dict[str, list[bool]] = defaultdict(list)
    device = model.device
    for batch in batches:
        batch = batch.to(device)
        with torch.autocast(device.type, torch.bfloat16):
            predicted = predict(model, batch).logits.argmax(-1)
        is_asked = batch.weights[:, 1:] > 0
        is_right = torch.ones_like(batch.weights, dtype=torch.bool)
        is_right[:, 1:][is_asked] = predicted == batch.token_ids[:, 1:][is_asked]
        for row, place, skill in batch.answers:
            right[skill].append(bool(is_right[row, place].all()))
    return {skill: sum(hits) / len(hits) for skill, hits in sorted(right.items())}
