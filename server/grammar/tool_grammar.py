"""The grammars that tool choice asks for, as formats of xgrammar's structural tags.

They allow a call in one spelling only, the one in which the chat template shows calls to the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.tools.tool_calls import CLOSE_TAG, OPEN_TAG

# Otherwise a model may write whitespace until its tokens run out. Qwen writes one space after a
# colon and a comma; no spaces at all cannot be asked for.
_MAX_WHITESPACE = 1


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """A function that a model may call.

    Attributes:
        name: of letters, digits, `_` and `-`.
        parameters: the JSON schema of its arguments; an empty one stands for any object.
        strict: whether a call that nothing forces must have arguments after this schema, too.
    """

    name: str
    parameters: Mapping[str, Any]
    strict: bool


def tool_call_format(tools: Sequence[FunctionTool], parallel: bool) -> dict[str, Any]:
    """Nothing but calls: at least one, and no other if not `parallel`, a line break between them.

    A forced call has arguments after the schema whether its tool is strict or not.
    """
    return {
        "type": "tags_with_separator",
        "tags": [_describe_call(tool.name, tool.parameters) for tool in tools],
        "separator": "\n",
        "at_least_one": True,
        "stop_after_first": not parallel,
    }


def strict_tools_format(tools: Sequence[FunctionTool], parallel: bool) -> dict[str, Any] | None:
    """Any text, in which an opening tag begins a call of one of the tools; None if none is strict.

    The text may hold no call at all. If not `parallel`, it ends with the first.
    """
    if not any(tool.strict for tool in tools):
        return None
    return {
        "type": "triggered_tags",
        "triggers": [OPEN_TAG],
        "tags": [
            _describe_call(tool.name, tool.parameters if tool.strict else {}) for tool in tools
        ],
        "at_least_one": False,
        "stop_after_first": not parallel,
    }


def _describe_call(name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "tag",
        "begin": f'{OPEN_TAG}\n{{"name": "{name}", "arguments": ',
        "content": {
            "type": "json_schema",
            "json_schema": {"type": "object", **parameters},
            "max_whitespace_cnt": _MAX_WHITESPACE,
        },
        "end": f"}}\n{CLOSE_TAG}",
    }
