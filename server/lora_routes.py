"""`/v1/load_lora_adapter` and `/v1/unload_lora_adapter`, as vLLM has them."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field, StringConstraints
from starlette.requests import Request

from server.body import Body, BodyModel, parse_body
from server.errors import NotFound
from server.lora_adapters import LoraAdapters
from server.request_io import read_json_body
from server.state import Backend, ServerState

AdapterName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:/@+-]{1,128}$")]


class LoadAdapterRequest(BodyModel):
    """`lora_path` is a folder below `engine.lora_dir`, from there or absolute."""

    lora_name: AdapterName
    lora_path: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    load_inplace: bool = Field(default=False)


class UnloadAdapterRequest(BodyModel):
    lora_name: Annotated[str, StringConstraints(min_length=1)]


def build_lora_router(state: ServerState) -> APIRouter:
    router = APIRouter()

    async def read(request: Request, model: type[Body]) -> Body:
        limits = state.settings.server
        with state.body_bytes.account(request.state.client.id) as held:
            body = await read_json_body(
                request, limits.max_body_bytes, limits.body_timeout_s, held.take
            )
            return parse_body(body, model).request

    @router.post("/v1/load_lora_adapter")
    async def load_lora_adapter(request: Request) -> dict[str, str]:
        _require_loading(state.require_backend())
        asked = await read(request, LoadAdapterRequest)
        with state.accept(request.state.client) as backend:
            await backend.adapters.load(
                asked.lora_name, asked.lora_path, replaces=asked.load_inplace
            )
        return {"lora_name": asked.lora_name, "status": "loaded"}

    @router.post("/v1/unload_lora_adapter")
    async def unload_lora_adapter(request: Request) -> dict[str, str]:
        """Requests that use the adapter are finished."""
        _require_loading(state.require_backend())
        asked = await read(request, UnloadAdapterRequest)
        with state.accept(request.state.client) as backend:
            backend.adapters.unload(asked.lora_name)
        return {"lora_name": asked.lora_name, "status": "unloaded"}

    return router


def _require_loading(backend: Backend) -> LoraAdapters:
    if not backend.adapters.can_load:
        raise NotFound(
            "loading adapters at run time needs the setting `engine.lora_dir`", "lora_loading_off"
        )
    return backend.adapters
