"""vLLM's routes for emptying caches: for operators, not for clients."""

from typing import Any, get_args

from fastapi import APIRouter
from starlette.requests import Request

from server.engine import CacheTier, Engine
from server.errors import Conflict, InvalidRequest
from server.request_io import refuse_browsers
from server.state import ServerState

_TIERS: dict[str, CacheTier] = {tier: tier for tier in get_args(CacheTier)}
_WHAT = "cache resets"


def build_cache_router(state: ServerState) -> APIRouter:
    router = APIRouter()

    def require_engine(request: Request) -> Engine:
        """Raises: Forbidden; NotReady; Conflict while the engine sleeps, without caches."""
        refuse_browsers(request, _WHAT)
        engine = state.require_backend().engine
        if state.is_asleep:
            raise Conflict("the engine is asleep; wake it first", "sleeping")
        return engine

    @router.post("/reset_prefix_cache")
    async def reset_prefix_cache(request: Request) -> dict[str, bool]:
        """Of all engines. Running requests hold on to their part, so there must be none."""
        if not await require_engine(request).reset_prefix_cache():
            raise Conflict("requests are using the prefix cache", "requests_running")
        return {"success": True}

    @router.post("/reset_encoder_cache")
    async def reset_encoder_cache(request: Request) -> dict[str, Any]:
        """Empties the tiers that `tiers` names, or all. The device's needs an idle server."""
        engine = require_engine(request)
        tiers = _read_tiers(request)
        if "device" not in tiers:
            await engine.reset_encoder_cache(tiers)
            return {"success": True, "tiers": tiers}
        if state.settings.server.api_workers > 1:  # the others' requests are not known here
            raise Conflict("the device's tier needs `server.api_workers` to be 1", "api_workers")
        with state.hold():
            await engine.reset_encoder_cache(tiers)
        return {"success": True, "tiers": tiers}

    return router


def _read_tiers(request: Request) -> list[CacheTier]:
    """Raises: InvalidRequest."""
    given = request.query_params.getlist("tiers") or list(_TIERS)
    if not set(given) <= set(_TIERS):
        raise InvalidRequest(
            f"`tiers` must be some of: {', '.join(_TIERS)}", "invalid_value", "tiers"
        )
    return [tier for name, tier in _TIERS.items() if name in given]
