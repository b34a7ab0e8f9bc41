"""`POST /v1/chat/completions`."""

from typing import Any

from server.ask import Ask, Caller
from server.body import parse_body
from server.chat_format import ChatFormat
from server.protocol import ChatCompletionRequest


class ChatDialect:
    def parse(self, body: bytes | bytearray, caller: Caller) -> Ask:
        parsed = parse_body(body, ChatCompletionRequest)
        return Ask(parsed.request, ChatFormat(parsed.request, parsed.request.model), parsed.unknown)

    def describe_error(self, body: dict[str, Any], status: int) -> dict[str, Any]:
        return body
