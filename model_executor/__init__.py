"""Qwen3-VL for vLLM: the forward pass, checkpoint loading, and the comparison with transformers."""
