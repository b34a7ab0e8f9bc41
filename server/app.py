"""The ASGI application. It answers `/health` while the model is still loading."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp

from server.access.answer_headers import AnswerHeaders
from server.access.gate import AccessGate
from server.access.key_ring import KeyRing
from server.anthropic.dialect import AnthropicDialect
from server.anthropic.errors import describe_error as describe_anthropic_error
from server.chat_dialect import ChatDialect
from server.encode_endpoint import EncodeEndpoint
from server.encode_request import ENCODE_PATH
from server.endpoint import GenerationEndpoint
from server.lora_routes import build_lora_router
from server.request_scope import RequestScope, error_response
from server.responses.dialect import ResponsesDialect
from server.responses.routes import build_responses_router
from server.responses.store import ResponseStore
from server.routes import build_router
from server.state import Backend, EncoderBackend, ServerState
from server.text_dialect import TextDialect
from server.token_endpoints import TokenEndpoint, count_message, detokenize, tokenize
from server.ui.page import build_page_routes

_ANTHROPIC_PATHS = ("/v1/messages", "/v1/messages/count_tokens")
_EXPOSED_HEADERS = (
    "x-request-id",
    "request-id",
    "retry-after",
    "warning",
    *(
        f"x-ratelimit-{name}-{kind}"
        for kind in ("requests", "tokens")
        for name in ("limit", "remaining", "reset")
    ),
)


def create_app(
    state: ServerState,
    load_backend: Callable[[], Awaitable[Backend | EncoderBackend]] | None = None,
) -> FastAPI:
    """The application around `state`.

    Args:
        load_backend: loads the model; runs in the background from the application's start on.
            None if `state.backend` is set by the caller.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(state.load(load_backend)) if load_backend else None
        try:
            yield
        finally:
            state.drain()
            if loading is not None:
                loading.cancel()
                await asyncio.gather(loading, return_exceptions=True)
            await state.close()

    kept = state.settings.responses
    responses = ResponseStore(kept.store_max_bytes, kept.store_ttl_s)
    app = FastAPI(
        title="qwen3vl-serve",
        docs_url=None,  # both pages load scripts from elsewhere
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        exception_handlers={HTTPException: _answer_routing_error},
        routes=_list_routes(state, responses),
    )
    app.include_router(build_router(state))
    app.include_router(build_lora_router(state))
    app.include_router(build_responses_router(state, responses))
    _add_middleware(app, state)
    return app


def _add_middleware(app: FastAPI, state: ServerState) -> None:
    """From the inside out. Raises: SettingsError for a file of API keys that cannot be used."""
    server, access = state.settings.server, state.settings.access
    app.state.key_ring = None if access.api_keys_file is None else KeyRing(access.api_keys_file)
    app.add_middleware(
        AccessGate,
        key_ring=app.state.key_ring,
        settings=access,
        metrics=state.metrics,
        num_processes=server.api_workers,
        describe_errors=dict.fromkeys(_ANTHROPIC_PATHS, describe_anthropic_error),
    )
    app.add_middleware(RequestScope)
    if server.cors_allow_origins:  # outside the layers that refuse, whose answers are read too
        app.add_middleware(
            CORSMiddleware,
            allow_origins=server.cors_allow_origins,
            allow_methods=("GET", "HEAD", "POST", "DELETE"),
            allow_headers=("*",),
            expose_headers=_EXPOSED_HEADERS,
        )
    app.add_middleware(AnswerHeaders, has_tls=server.ssl_certfile is not None)


def _list_routes(state: ServerState, responses: ResponseStore) -> list[BaseRoute]:
    endpoints: dict[str, ASGIApp] = {
        "/v1/chat/completions": GenerationEndpoint(state, ChatDialect()),
        "/v1/completions": GenerationEndpoint(state, TextDialect()),
        "/v1/responses": GenerationEndpoint(state, ResponsesDialect(responses)),
        "/v1/messages": GenerationEndpoint(state, AnthropicDialect()),
        "/v1/messages/count_tokens": TokenEndpoint(state, count_message, describe_anthropic_error),
        "/tokenize": TokenEndpoint(state, tokenize),
        "/detokenize": TokenEndpoint(state, detokenize),
    }
    if state.settings.engine.role == "encoder":
        endpoints[ENCODE_PATH] = EncodeEndpoint(state)
    routes = [Route(path, endpoint, methods=["POST"]) for path, endpoint in endpoints.items()]
    return [*routes, *(build_page_routes() if state.settings.has_page else ())]


async def _answer_routing_error(request: Request, error: Exception) -> Response:
    """The router's 404 and 405; every other exception is answered by `RequestScope`."""
    response = error_response(error, request.state.request_id)
    if response.status_code == 405:  # the router names the methods of one route of the path
        response.headers["allow"] = ", ".join(_find_methods(request))
    return response


def _find_methods(request: Request) -> list[str]:
    """What the routes of the request's path take."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    return sorted(
        {
            method
            for route in routes
            if route.matches(request.scope)[0] is not Match.NONE
            for method in route.methods or ()
        }
    )
