"""M-RoPE positions of a prompt: (temporal, height, width) for every token."""

from collections.abc import Iterable

import numpy as np
import torch

PlacedGrid = tuple[
    int, int, int
]  # offset in the prompt; rows, columns in LLM tokens (after merging)


def mrope_positions(num_tokens: int, grids: Iterable[PlacedGrid]) -> tuple[torch.Tensor, int]:
    """Positions of a prompt with visual items.

    Text advances all three axes together. An item's tokens share their temporal position and spread
    over height and width from there; the text after it continues behind the largest position used.
    A temporal patch of a video is an item of its own (its timestamp text lies in between).

    Args:
        grids: visual items in prompt order.
    Returns: (3, num_tokens) int64, and the offset to add to a token's index to get the position of
        the text generated after the prompt.
    Source: transformers Qwen3VLModel.get_rope_index; held by tests/parity/test_mrope.py.
    """
    positions = np.empty((3, num_tokens), dtype=np.int64)
    done, next_position = 0, 0
    for offset, rows, columns in grids:
        num_text = offset - done
        positions[:, done:offset] = np.arange(next_position, next_position + num_text)
        next_position += num_text
        done = offset + rows * columns
        positions[:, offset:done] = next_position + np.indices((1, rows, columns)).reshape(3, -1)
        next_position += max(rows, columns)
    positions[:, done:] = np.arange(next_position, next_position + num_tokens - done)
    next_position += num_tokens - done
    return torch.from_numpy(positions), next_position - num_tokens
