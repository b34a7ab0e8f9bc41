"""The routes that generate nothing: which model, is it alive, is it ready, its metrics, the API."""

import time
from typing import Any

from fastapi import APIRouter
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.responses import Response

from server.errors import ModelNotFound, NotReady
from server.openapi.document import encode_document
from server.state import ServerState


def build_router(state: ServerState) -> APIRouter:
    router = APIRouter()
    started = int(time.time())

    def describe_model() -> dict[str, Any]:
        """Raises: NotReady while loading."""
        backend = state.require_backend()
        info = backend.engine.model_info
        return {
            "id": info.name,
            "object": "model",
            "created": started,
            "owned_by": "qwen3vl-serve",
            "max_model_len": info.max_model_len,
            "kind": backend.renderer.kind,
            "random_weights": info.random_weights,
        }

    @router.get("/v1/models/{name:path}")
    async def retrieve_model(name: str) -> dict[str, Any]:
        model = describe_model()
        if name != model["id"]:
            raise ModelNotFound(f"the model served here is `{model['id']}`", "model_not_found")
        return model

    @router.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        """Raises: NotReady while loading."""
        return {"object": "list", "data": [describe_model()]}

    @router.api_route("/health", methods=["GET", "HEAD"])
    async def check_health() -> dict[str, Any]:
        """Liveness: 200 while loading, and as long as the engine lives."""
        if state.load_failed:
            raise NotReady("the model cannot be loaded", "load_failed")
        if state.backend is None:
            return {"status": "loading", "implementation": None}
        await state.backend.engine.check_health()
        info = state.backend.engine.model_info
        return {"status": "ok", "implementation": info.implementation}

    @router.api_route("/ready", methods=["GET", "HEAD"])
    async def check_ready() -> dict[str, str]:
        """Readiness: 200 if a chat request would be accepted and answered by our model."""
        await state.check_ready()
        return {"status": "ready"}

    @router.get("/metrics")
    async def render_metrics() -> Response:
        text = generate_latest(state.metrics.registry)
        return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    @router.get("/openapi.json")
    async def describe_api() -> Response:
        return Response(encode_document(), media_type="application/json")

    return router
