"""Placeholder of the lead: replaced by the helper who owns this file."""
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class OutputGrammar:
    structural_tag: str
    param: str
def from_format(format: dict[str, Any], param: str) -> OutputGrammar:
    return OutputGrammar(json.dumps({"type": "structural_tag", "format": format}), param)
def json_object(param): return json_schema({"type":"object"}, param)
def json_schema(schema, param): return from_format({"type":"json_schema","json_schema":schema}, param)
def regex(pattern, param): return from_format({"type":"regex","pattern":pattern}, param)
def choice(options, param): return from_format({"type":"or","elements":[{"type":"const_string","value":o} for o in options]}, param)
def ebnf(text, param): return from_format({"type":"grammar","grammar":text}, param)
