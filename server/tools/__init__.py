"""Qwen's tool calls, read while the model writes them."""
