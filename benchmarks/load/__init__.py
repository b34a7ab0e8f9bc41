"""`qwen3vl-serve bench`: a load test of any server that speaks OpenAI's chat completions."""
