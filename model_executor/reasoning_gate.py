"""Where an answer's grammar begins: right behind the token `</think>`, and nowhere else.

vLLM asks a reasoning parser for it, in the engine's process, for requests that were sent with
`reasoning_ended=False`. Its own parser for Qwen3 takes `<tool_call>` for an end too, which our
server does not. See `server.reasoning`.
"""

from vllm.reasoning.basic_parsers import BaseThinkingReasoningParser


class ReasoningGate(BaseThinkingReasoningParser):
    """Registered with vLLM by `multimodal.vllm_plugin`."""

    @property
    def start_token(self) -> str:
        return "<think>"

    @property
    def end_token(self) -> str:
        return "</think>"
