"""The vLLM plugin: `register()` and the Qwen3-VL forward pass."""
