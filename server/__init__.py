"""The HTTP layer: OpenAI-compatible chat completions over an `Engine`."""
