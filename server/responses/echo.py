"""What a response says again of its request."""

from typing import Any

from server.responses.protocol import (
    FunctionChoice,
    FunctionTool,
    JsonSchemaTextFormat,
    ResponsesRequest,
    TextOptions,
)

_AS_GIVEN = (
    "instructions",
    "max_output_tokens",
    "previous_response_id",
    "prompt_cache_key",
    "safety_identifier",
    "temperature",
    "top_p",
    "user",
)


def echo_request(request: ResponsesRequest) -> dict[str, Any]:
    """Its fields, with OpenAI's defaults where there is one; it holds nothing of the input."""
    reasoning = request.reasoning
    return {
        **{name: getattr(request, name) for name in _AS_GIVEN},
        "background": False,
        "max_tool_calls": None,
        "metadata": request.metadata or {},
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "reasoning": {
            "effort": reasoning.effort if reasoning else None,
            "summary": reasoning.summary if reasoning else None,
        },
        "service_tier": "default",
        "text": _echo_text(request.text),
        "tool_choice": _echo_choice(request.tool_choice),
        "tools": [
            _echo_tool(tool) for tool in request.tools or () if isinstance(tool, FunctionTool)
        ],
        "top_logprobs": request.top_logprobs or 0,
        "truncation": "disabled",
    }


def _echo_choice(choice: str | FunctionChoice | None) -> str | dict[str, str]:
    if isinstance(choice, FunctionChoice):
        return {"type": "function", "name": choice.name}
    return choice or "auto"


def _echo_tool(tool: FunctionTool) -> dict[str, Any]:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict,
    }


def _echo_text(text: TextOptions | None) -> dict[str, Any]:
    wanted = text.format if text else None
    described: dict[str, Any] = {"type": wanted.type if wanted else "text"}
    if isinstance(wanted, JsonSchemaTextFormat):
        described |= {
            "name": wanted.name,
            "description": wanted.description,
            "schema": wanted.json_schema,
            "strict": wanted.strict,
        }
    return {"format": described, "verbosity": "medium"}
