"""`POST /v1/completions`."""

from typing import Any

from server.ask import Ask, Caller
from server.body import parse_body
from server.text_format import TextFormat
from server.text_protocol import CompletionRequest


class TextDialect:
    def parse(self, body: bytes | bytearray, caller: Caller) -> Ask:
        parsed = parse_body(body, CompletionRequest)
        return Ask(
            parsed.request,
            TextFormat(parsed.request, parsed.request.model),
            parsed.unknown,
            field_names={"messages": "prompt"},
        )

    def describe_error(self, body: dict[str, Any], status: int) -> dict[str, Any]:
        return body
