"""`/tokenize`, `/detokenize` and Anthropic's `/v1/messages/count_tokens`: prompts, no answers."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.access.client import Client
from server.anthropic.dialect import describe_count, parse_count
from server.ask import Caller
from server.body import parse_body
from server.deadline import Deadline
from server.field_names import named_by
from server.preparation import Preparation
from server.protocol import ChatCompletionRequest
from server.request_io import (
    parse_aside,
    read_json_body,
    run_while_connected,
    with_write_timeout,
)
from server.state import Backend, ServerState
from server.tokens_protocol import DetokenizeRequest, TokenizeRequest

Answerer = Callable[[bytearray, Caller, Backend, Preparation], Awaitable[dict[str, Any]]]


class TokenEndpoint:
    """An ASGI endpoint that reads JSON and answers with JSON, and leaves the engine alone.

    Args:
        describe_error: see `server.ask.Dialect`.
    """

    def __init__(
        self,
        state: ServerState,
        answer: Answerer,
        describe_error: Callable[[dict[str, Any], int], dict[str, Any]] | None = None,
    ) -> None:
        self._state = state
        self._answer = answer
        self._describe_error = describe_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        http_request, settings = Request(scope, receive), self._state.settings
        if self._describe_error is not None:
            http_request.state.describe_error = self._describe_error
        limits = settings.server
        send = with_write_timeout(send, limits.write_timeout_s)
        client: Client = http_request.state.client
        with (
            self._state.accept(client) as backend,
            self._state.body_bytes.account(client.id) as held,
        ):
            deadline = Deadline.begin(http_request.headers, limits.request_timeout_s)
            async with deadline.limit():
                body = await read_json_body(
                    http_request, limits.max_body_bytes, limits.body_timeout_s, held.take
                )
            tenant = client.tenant(settings.cache)
            caller = Caller(client.id, backend.engine.model_info.name)
            preparation = Preparation(backend, settings, self._state.metrics, tenant, held)

            async def respond() -> None:
                async with self._state.until_shutdown(), deadline.limit():
                    answer = await self._answer(body, caller, backend, preparation)
                response = Response(orjson.dumps(answer), media_type="application/json")
                await response(scope, receive, send)

            await run_while_connected(receive, respond())


async def tokenize(
    body: bytearray, caller: Caller, backend: Backend, preparation: Preparation
) -> dict[str, Any]:
    """The tokens of a text or of a conversation, media included."""
    request = (await parse_aside(parse_body, body, TokenizeRequest)).request
    backend.adapters.check_model(request.model or caller.model)
    if request.prompt is not None:
        with named_by({"messages": "prompt"}):
            tokens = await asyncio.to_thread(backend.renderer.encode_prompt, request.prompt)
    else:
        prompt = await preparation.prepare_chat(request.to_chat(caller.model))
        tokens = prompt.expanded.token_ids
    names = None
    if request.return_token_strs:
        names = await asyncio.to_thread(backend.renderer.name_tokens, tokens)
    return {
        "count": len(tokens),
        "max_model_len": backend.engine.model_info.max_model_len,
        "tokens": tokens,
        "token_strs": names,
    }


async def count_message(
    body: bytearray, caller: Caller, backend: Backend, preparation: Preparation
) -> dict[str, Any]:
    """How many tokens the prompt of a message would have."""
    ask = await parse_aside(parse_count, body, caller)
    request = ask.request
    assert isinstance(request, ChatCompletionRequest)
    backend.adapters.check_model(request.model)
    with named_by(ask.field_names):
        prompt = await preparation.prepare_chat(
            request, prefers_no_thinking=ask.prefers_no_thinking
        )
    return describe_count(len(prompt.expanded.token_ids))


async def detokenize(
    body: bytearray, caller: Caller, backend: Backend, preparation: Preparation
) -> dict[str, Any]:
    """The text of tokens, special ones included."""
    request = (await parse_aside(parse_body, body, DetokenizeRequest)).request
    backend.adapters.check_model(request.model or caller.model)
    return {"prompt": await asyncio.to_thread(backend.renderer.decode_prompt, request.tokens)}
