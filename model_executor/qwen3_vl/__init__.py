"""Qwen3-VL for vLLM.

A package, and registered by the package's name, because vLLM caches what it finds out about a model
class under a hash of the named module; only a package's hash covers all of its files.
"""

from model_executor.qwen3_vl.model import (
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeForConditionalGeneration,
)

__all__ = ["Qwen3VLForConditionalGeneration", "Qwen3VLMoeForConditionalGeneration"]
