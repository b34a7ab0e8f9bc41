"""`qwen3vl-serve plan`: memory, parallel layout and arguments, from the configuration alone.

Nothing here imports torch or vLLM; what vLLM allocates is checked by tests against a real start.
"""
