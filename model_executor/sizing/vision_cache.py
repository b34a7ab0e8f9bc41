"""The vision cache: bytes of a picture's embedding, and how many pictures a budget holds."""

from model_executor.sizing.model_shape import ModelShape

ENTRY_OVERHEAD_BYTES = 544  # of a file, `OVERHEAD_BYTES` in multimodal.vision_entry (needs torch)


def embedding_bytes(model: ModelShape, num_tokens: int) -> int:
    """tokens * hidden * (1 + DeepStack levels) * bytes of the dtype; on a device, not split."""
    return num_tokens * model.embedding_width * model.dtype_bytes


def entry_bytes(model: ModelShape, num_tokens: int) -> int:
    """Of the file in the host or disk tier: the embedding, a header and a digest."""
    return embedding_bytes(model, num_tokens) + ENTRY_OVERHEAD_BYTES


def device_tier_bytes(model: ModelShape, budget: int | None, encoder_tokens: int) -> int:
    """The budget, or without one the embeddings of an encoder step; at least those of one step.

    Args:
        budget: `device_bytes` of the server's settings.
        encoder_tokens: visual tokens of the largest encoder step.
    """
    least = embedding_bytes(model, encoder_tokens)
    return least if budget is None else max(budget, least)
