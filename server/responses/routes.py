"""The routes to responses that are kept: one of them, what it answers, and its end."""

import re
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.errors import InvalidRequest, NotFound
from server.responses.listing import list_items
from server.responses.store import KeptResponse, ResponseStore
from server.state import ServerState

_LIMIT = re.compile(r"[1-9][0-9]?|100")  # this, the default and the order are OpenAI's


class ResponseNotFound(NotFound):
    """No such response is kept for this client."""

    def __init__(self) -> None:
        super().__init__("no response of this id is kept here", "response_not_found", "response_id")


def build_responses_router(state: ServerState, store: ResponseStore) -> APIRouter:
    router = APIRouter(prefix="/v1/responses")

    def find(request: Request, response_id: str) -> KeptResponse:
        """Raises: ResponseNotFound."""
        kept = store.get(request.state.client.id, response_id)
        if kept is None:
            raise ResponseNotFound
        return kept

    @router.get("/{response_id}")
    async def retrieve_response(request: Request, response_id: str) -> Response:
        """Raises: InvalidRequest for a stream, which is not played again."""
        if request.query_params.get("stream") == "true":
            raise InvalidRequest("`stream` is not supported", "unsupported_parameter", "stream")
        return Response(find(request, response_id).body, media_type="application/json")

    @router.delete("/{response_id}")
    async def delete_response(request: Request, response_id: str) -> dict[str, Any]:
        if not store.delete(request.state.client.id, response_id):
            raise ResponseNotFound
        return {"id": response_id, "object": "response", "deleted": True}

    @router.get("/{response_id}/input_items")
    async def list_input_items(request: Request, response_id: str) -> Response:
        """The conversation up to the answer; the latest items come first unless `order` is asc."""
        *messages, _ = find(request, response_id).messages
        page = _cut_page(list_items(messages, response_id), request)
        return Response(orjson.dumps(page), media_type="application/json")

    return router


def _cut_page(items: list[dict[str, Any]], request: Request) -> dict[str, Any]:
    """OpenAI's list. Raises: InvalidRequest."""
    query = request.query_params
    if query.get("order", "desc") not in ("asc", "desc"):
        raise InvalidRequest("`order` must be `asc` or `desc`", "invalid_value", "order")
    if query.get("order") != "asc":
        items = items[::-1]
    limit = query.get("limit", "20")
    if not _LIMIT.fullmatch(limit):
        raise InvalidRequest("`limit` must be from 1 to 100", "invalid_value", "limit")
    start = 0
    if "after" in query:
        ids = [item["id"] for item in items]
        if query["after"] not in ids:
            raise InvalidRequest("`after` is not the id of an item", "invalid_value", "after")
        start = ids.index(query["after"]) + 1
    page = items[start : start + int(limit)]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": start + len(page) < len(items),
    }
