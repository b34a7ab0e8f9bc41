"""Valid bodies of each API that use much of it, and the functions that read them."""

import base64
from collections.abc import Callable
from typing import Any

from server.anthropic.dialect import AnthropicDialect, parse_count
from server.ask import Ask, Caller
from server.body import parse_body
from server.chat_dialect import ChatDialect
from server.conversation import build_conversation
from server.grammar.answer_grammar import find_grammar
from server.protocol import ChatCompletionRequest
from server.responses.dialect import ResponsesDialect
from server.responses.store import ResponseStore
from server.sampling import resolve_sampling
from server.text_dialect import TextDialect
from server.thinking import resolve_thinking
from server.tokens_protocol import DetokenizeRequest, TokenizeRequest

CALLER = Caller("", "m")
_IMAGE = "data:image/png;base64," + base64.b64encode(bytes(30)).decode()
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "n": {"type": "integer", "minimum": 0}},
    "required": ["city"],
    "additionalProperties": False,
}
_FUNCTION = {"name": "f", "description": "d", "parameters": _SCHEMA, "strict": True}
_CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"city": "x"}'}}
_DRAWING = {
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 20,
    "min_p": 0.1,
    "presence_penalty": 1,
    "repetition_penalty": 1.1,
    "seed": 7,
    "stop": ["a", "bc"],
    "stop_token_ids": [1, 2],
    "min_tokens": 0,
    "logit_bias": {"12": -3.5},
    "priority": 0,
    "ignore_eos": False,
}

CHAT: list[Any] = [
    {
        "model": "m",
        "messages": [
            {"role": "system", "content": "s"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "t"},
                    {"type": "image_url", "image_url": {"url": _IMAGE, "max_pixels": 65536}},
                    {"type": "video_url", "video_url": {"url": _IMAGE, "fps": 2.0}},
                    {"type": "video", "video": [_IMAGE, _IMAGE], "sample_fps": 1.0},
                ],
            },
            {"role": "assistant", "content": None, "reasoning": "r", "tool_calls": [_CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "21"}]},
        ],
        "tools": [{"type": "function", "function": _FUNCTION}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "mm_processor_kwargs": {"size": {"longest_edge": 65536}},
        "chat_template_kwargs": {"enable_thinking": True},
        "stream": True,
        "stream_options": {"include_usage": True},
        **_DRAWING,
    },
    {
        "model": "m",
        "messages": [{"role": "user", "content": "u"}],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": _SCHEMA, "strict": True},
        },
        "logprobs": True,
        "top_logprobs": 2,
        "n": 2,
        "max_completion_tokens": 9,
        "reasoning": {"effort": "low", "max_tokens": 2048},
        "thinking": {"type": "enabled", "budget_tokens": 2048},
    },
    {
        "model": "m",
        "messages": [{"role": "user", "content": "u"}],
        "structured_outputs": {"regex": "[ab]+(c|d)?"},
        "metadata": {"k": "v"},
    },
    {"model": "m", "messages": [{"role": "user", "content": "u"}], "guided_choice": ["a", "b"]},
]
COMPLETIONS: list[Any] = [
    {"model": "m", "prompt": ["a", "b"], "echo": True, "max_tokens": 3, **_DRAWING},
    {"model": "m", "prompt": [1, 2, 3], "logprobs": 2, "stream": True, "n": 2},
]
RESPONSES: list[Any] = [
    {
        "model": "m",
        "instructions": "i",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "t"}]},
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "input_image", "image_url": _IMAGE, "detail": "auto"},
                    {"type": "input_video", "video_url": _IMAGE, "num_frames": 4},
                ],
            },
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [],
                "content": [
                    {"type": "reasoning_text", "text": "r"},
                ],
            },
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "21"},
            {"role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
        ],
        "tools": [{"type": "function", **_FUNCTION}],
        "tool_choice": "auto",
        "reasoning": {"effort": "low", "summary": "auto"},
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 1,
        "metadata": {"a": "b"},
        "max_output_tokens": 5,
        "store": False,
    },
    {
        "model": "m",
        "input": "i",
        "text": {"format": {"type": "json_schema", "name": "n", "schema": _SCHEMA}},
        "previous_response_id": None,
    },
]
MESSAGES: list[Any] = [
    {
        "model": "m",
        "max_tokens": 5,
        "system": [{"type": "text", "text": "s"}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "t", "cache_control": {"type": "ephemeral"}},
                    {
                        "type": "image",
                        "source": {
                            "type": "base64",
                            "media_type": "image/png",
                            "data": "AAAA",
                        },
                    },
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "r", "signature": "s"},
                    {"type": "tool_use", "id": "t1", "name": "f", "input": {"city": "x"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "t1",
                        "content": [
                            {"type": "text", "text": "21"},
                        ],
                        "is_error": False,
                    },
                ],
            },
        ],
        "tools": [{"name": "f", "description": "d", "input_schema": _SCHEMA}],
        "tool_choice": {"type": "tool", "name": "f"},
        "stop_sequences": ["x"],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    },
    {
        "model": "m",
        "max_tokens": 5,
        "messages": [{"role": "user", "content": "u"}],
        "output_config": {"format": {"type": "json_schema", "schema": _SCHEMA}},
    },
]
TOKENIZE: list[Any] = [
    {"prompt": "p", "return_token_strs": True},
    {"messages": CHAT[0]["messages"], "tools": CHAT[0]["tools"]},
]
DETOKENIZE: list[Any] = [{"model": "m", "tokens": [1, 2, 3]}]


def follow(ask: Ask) -> None:
    """What is done with a request on the event loop, before anything is loaded or generated."""
    request = ask.request
    resolve_sampling(request, {"temperature": 0.7}, 4096)
    if isinstance(request, ChatCompletionRequest):
        build_conversation(request)
        resolve_thinking(request, "hybrid", thinks_by_default=True)
        find_grammar(request)


def _read_tokenize(body: bytes) -> None:
    build_conversation(parse_body(body, TokenizeRequest).request.to_chat("m"))


_NO_STORE = ResponseStore(0, 1.0)
READERS: dict[str, tuple[Callable[[bytes], object], list[Any]]] = {
    "chat": (lambda body: follow(ChatDialect().parse(body, CALLER)), CHAT),
    "completions": (lambda body: follow(TextDialect().parse(body, CALLER)), COMPLETIONS),
    "responses": (lambda body: follow(ResponsesDialect(_NO_STORE).parse(body, CALLER)), RESPONSES),
    "messages": (lambda body: follow(AnthropicDialect().parse(body, CALLER)), MESSAGES),
    "count_tokens": (lambda body: follow(parse_count(body, CALLER)), MESSAGES),
    "tokenize": (_read_tokenize, TOKENIZE),
    "detokenize": (lambda body: parse_body(body, DetokenizeRequest), DETOKENIZE),
}
