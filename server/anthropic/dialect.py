"""Anthropic's `POST /v1/messages`, and what its `count_tokens` reads and writes."""

from typing import Any

from server.anthropic.errors import describe_error
from server.anthropic.format import AnthropicFormat
from server.anthropic.protocol import MessagesRequest
from server.anthropic.translation import translate
from server.ask import Ask, Caller
from server.body import ParsedBody, parse_body
from server.errors import InvalidRequest


class AnthropicDialect:
    def parse(self, body: bytes | bytearray, caller: Caller) -> Ask:
        parsed = parse_body(body, MessagesRequest)
        _check_answerable(parsed.request)
        return _make_ask(parsed, caller)

    def describe_error(self, body: dict[str, Any], status: int) -> dict[str, Any]:
        return describe_error(body, status)


def parse_count(body: bytes | bytearray, caller: Caller) -> Ask:
    """The request whose prompt is to be counted. Raises: InvalidRequest."""
    return _make_ask(parse_body(body, MessagesRequest), caller)


def describe_count(num_tokens: int) -> dict[str, Any]:
    return {"input_tokens": num_tokens}


def _check_answerable(request: MessagesRequest) -> None:
    """What is asked of a request that is to be answered, beyond one that is counted."""
    if request.max_tokens is None:
        raise InvalidRequest("`max_tokens` is required", "missing_parameter", "max_tokens")
    if request.messages[-1].role == "assistant":
        param = f"messages[{len(request.messages) - 1}]"
        raise InvalidRequest(
            f"`{param}`: the last message must not be the assistant's: beginnings of an answer "
            "(prefill) are not continued",
            "unsupported_parameter",
            param,
        )


def _make_ask(parsed: ParsedBody[MessagesRequest], caller: Caller) -> Ask:
    request = parsed.request
    translation = translate(request)
    return Ask(
        translation.request,
        AnthropicFormat(request.model, shows_thinking=_shows_thinking(request)),
        parsed.unknown,
        prefers_no_thinking=request.thinking is None and _template_switch(request) is None,
        field_names=translation.field_names,
    )


def _shows_thinking(request: MessagesRequest) -> bool:
    """Clients that did not ask for thinking look for the text in the first block."""
    thinking = request.thinking
    if thinking is None:
        return bool(_template_switch(request))
    return thinking.type != "disabled" and thinking.display != "omitted"


def _template_switch(request: MessagesRequest) -> bool | None:
    kwargs = request.chat_template_kwargs
    return None if kwargs is None else kwargs.enable_thinking
