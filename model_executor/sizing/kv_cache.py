"""The KV cache: bytes of a token on one device, and how many tokens fit."""

from model_executor.sizing.model_shape import DTYPE_BYTES, ModelShape
from model_executor.sizing.parallel_layout import ParallelLayout, stage_layers

KV_CACHE_DTYPES = ("auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2")


def kv_bytes_per_token(
    model: ModelShape, layout: ParallelLayout, kv_cache_dtype: str = "auto", stage: int = 0
) -> int:
    """2 * layers of the stage * key-value heads of the rank * head_dim * bytes of the dtype.

    A rank has at least one head; `auto` is the model's dtype.
    """
    text = model.text_config
    heads = max(1, text.num_key_value_heads // layout.tensor_parallel_size)
    layers = stage_layers(text.num_hidden_layers, layout.pipeline_parallel_size)[stage]
    return 2 * len(layers) * heads * text.head_dim * _dtype_bytes(model, kv_cache_dtype)


def _dtype_bytes(model: ModelShape, kv_cache_dtype: str) -> int:
    if kv_cache_dtype == "auto":
        return model.dtype_bytes
    return 1 if kv_cache_dtype.startswith("fp8") else DTYPE_BYTES[kv_cache_dtype]


def tokens_that_fit(num_bytes: int, bytes_per_token: int, block_tokens: int) -> int:
    """In whole blocks; the first block is vLLM's own and holds nobody's tokens."""
    num_blocks = num_bytes // (bytes_per_token * block_tokens)
    return max(0, num_blocks - 1) * block_tokens


def requests_that_fit(num_tokens: int, request_tokens: int, block_tokens: int) -> int:
    """Requests of `request_tokens` each, in whole blocks."""
    blocks_each = -(-request_tokens // block_tokens)
    return num_tokens // block_tokens // blocks_each
