"""vLLM's routes for sleeping and waking; only with `engine.enable_sleep_mode`."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from server.engine import SleepLevel, SleepPart
from server.errors import InvalidRequest, NotFound
from server.request_io import refuse_browsers
from server.sleep_mode import SleepMode
from server.state import ServerState

_LEVELS: dict[str, SleepLevel] = {"1": 1, "2": 2}
_PARTS: dict[str, SleepPart] = {"weights": "weights", "kv_cache": "kv_cache"}
_WHAT = "sleep and waking"


def build_sleep_router(state: ServerState) -> APIRouter:
    router = APIRouter()
    mode = SleepMode(state)

    def require_setting() -> None:
        if not state.settings.engine.enable_sleep_mode:
            raise NotFound("sleep needs the setting `engine.enable_sleep_mode`", "sleep_mode_off")

    @router.post("/sleep")
    async def sleep(request: Request) -> dict[str, Any]:
        """Answers when the engine sleeps."""
        require_setting()
        refuse_browsers(request, _WHAT)
        level = _read_level(request)
        await mode.fall_asleep(state.require_backend().engine, level)
        return {"status": "sleeping", "level": level}

    @router.post("/wake_up")
    async def wake_up(request: Request) -> dict[str, Any]:
        """Answers when the parts that `tags` names, or all, are back."""
        require_setting()
        refuse_browsers(request, _WHAT)
        tags = _read_tags(request)
        is_awake = await mode.wake_up(state.require_backend().engine, tags or _PARTS.values())
        return {"status": "awake" if is_awake else "sleeping", "tags": tags or None}

    @router.get("/is_sleeping")
    async def is_sleeping() -> dict[str, bool]:
        require_setting()
        return {"is_sleeping": state.is_asleep}

    return router


def _read_level(request: Request) -> SleepLevel:
    """vLLM's level 0 and its modes `abort` and `keep` are not offered. Raises: InvalidRequest."""
    query = request.query_params
    level = query.get("level", "1")
    if level not in _LEVELS:
        raise InvalidRequest("`level` must be 1 or 2", "invalid_value", "level")
    if query.get("mode", "wait") != "wait":
        raise InvalidRequest("`mode` can only be `wait`", "unsupported_parameter", "mode")
    return _LEVELS[level]


def _read_tags(request: Request) -> list[SleepPart]:
    """Raises: InvalidRequest."""
    given = request.query_params.getlist("tags")
    if not set(given) <= set(_PARTS):
        raise InvalidRequest("`tags` must be `weights` or `kv_cache`", "invalid_value", "tags")
    return [_PARTS[tag] for tag in given]
