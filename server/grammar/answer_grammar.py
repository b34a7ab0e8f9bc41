"""What an answer must look like, if the request says so: one grammar for all the ways to say it.

A tool call that is forced, a format, or both: then the answer is a call or has the format.
"""

from collections.abc import Callable, Iterator
from typing import Any

import orjson

from server.conversation import usable_tools
from server.errors import InvalidRequest
from server.grammar.output_grammar import (
    OutputGrammar,
    choice,
    ebnf,
    from_format,
    json_object,
    json_schema,
    regex,
)
from server.grammar.tool_grammar import FunctionTool, strict_tools_format, tool_call_format
from server.protocol import (
    ChatCompletionRequest,
    JsonObjectFormat,
    JsonSchemaFormat,
    NamedToolChoice,
    StructuredOutputs,
    Tool,
)


def find_grammar(request: ChatCompletionRequest) -> OutputGrammar | None:
    """The grammar of the answer behind the reasoning; None if it is free.

    Raises: InvalidRequest for two formats, for a choice of tools that are not given, and for what
        `server.grammar.limits` refuses.
    """
    formats = list(_iterate_formats(request))
    if len(formats) > 1:
        raise InvalidRequest(
            f"`{formats[0].param}` and `{formats[1].param}` both say what the answer must look "
            "like; give one",
            "invalid_value",
            formats[1].param,
        )
    grammar = _find_one(request, formats)
    if grammar is not None and request.min_tokens:
        raise InvalidRequest(
            f"`min_tokens` cannot be held beside `{grammar.param}`: a grammar ends where it ends",
            "invalid_value",
            "min_tokens",
        )
    return grammar


def _find_one(request: ChatCompletionRequest, formats: list[OutputGrammar]) -> OutputGrammar | None:
    forced = _force_tools(request)
    if forced is not None:
        if formats:
            raise InvalidRequest(
                f"`tool_choice` forces a call, so there is no answer that `{formats[0].param}` "
                "could be the format of",
                "invalid_value",
                formats[0].param,
            )
        return forced
    tools = usable_tools(request)
    if formats and tools:
        return _call_or_format(request, tools, formats[0])
    if formats:
        return formats[0]
    strict = strict_tools_format(_describe(tools), _is_parallel(request)) if tools else None
    return from_format(strict, "tools") if strict is not None else None


def _force_tools(request: ChatCompletionRequest) -> OutputGrammar | None:
    tools, wanted = usable_tools(request), request.tool_choice
    if wanted != "required" and not isinstance(wanted, NamedToolChoice):
        return None
    if not tools:
        raise InvalidRequest("`tool_choice` needs `tools`", "missing_parameter", "tools")
    parallel = _is_parallel(request)
    if isinstance(wanted, NamedToolChoice):
        name = wanted.function.name
        tools, parallel = [tool for tool in tools if tool.function.name == name], False
        if not tools:
            raise InvalidRequest(
                "`tool_choice.function.name` is not the name of one of `tools`",
                "invalid_value",
                "tool_choice.function.name",
            )
    return from_format(tool_call_format(_describe(tools), parallel), "tools")


def _call_or_format(
    request: ChatCompletionRequest, tools: list[Tool], answer: OutputGrammar
) -> OutputGrammar:
    calls = tool_call_format(_describe(tools), _is_parallel(request))
    either = [calls, orjson.loads(answer.structural_tag)["format"]]
    return from_format({"type": "or", "elements": either}, answer.param)


def _is_parallel(request: ChatCompletionRequest) -> bool:
    return request.parallel_tool_calls is not False


def _describe(tools: list[Tool]) -> list[FunctionTool]:
    return [
        FunctionTool(
            tool.function.name, tool.function.parameters or {}, strict=bool(tool.function.strict)
        )
        for tool in tools
    ]


def _iterate_formats(request: ChatCompletionRequest) -> Iterator[OutputGrammar]:
    match request.response_format:
        case JsonObjectFormat():
            yield json_object("response_format")
        case JsonSchemaFormat(json_schema=named):
            yield _from_schema(named.json_schema, "response_format.json_schema.schema")
    outputs = request.structured_outputs or StructuredOutputs()
    if outputs.json_object:
        yield json_object("structured_outputs.json_object")
    ways: tuple[tuple[str, Any, Any, Callable[[Any, str], OutputGrammar]], ...] = (
        ("json", outputs.json_schema, request.guided_json, _from_schema),
        ("regex", outputs.regex, request.guided_regex, regex),
        ("choice", outputs.choice, request.guided_choice, choice),
        ("grammar", outputs.grammar, request.guided_grammar, ebnf),
    )
    for word, new, old, build in ways:
        if new is not None:
            yield build(new, f"structured_outputs.{word}")
        if old is not None:
            yield build(old, f"guided_{word}")


def _from_schema(schema: Any, param: str) -> OutputGrammar:
    """A schema, the JSON text of one, or none: then any object will do."""
    if isinstance(schema, str):
        try:
            schema = orjson.loads(schema)
        except orjson.JSONDecodeError:
            raise InvalidRequest(f"`{param}` is not valid JSON", "invalid_value", param) from None
    if schema is None:
        return json_object(param)
    if not isinstance(schema, dict | bool):
        raise InvalidRequest(f"`{param}` must be a JSON schema", "invalid_value", param)
    return json_schema(schema, param)
