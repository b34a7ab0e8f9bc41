"""`POST /v1/responses`."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from server.ask import Ask, Caller
from server.body import parse_body
from server.errors import InvalidRequest
from server.protocol import Message
from server.responses.conversation import HISTORY_FIELD, read_item
from server.responses.format import Keeper, ResponsesFormat
from server.responses.protocol import InputItem, ResponsesRequest
from server.responses.store import ResponseStore
from server.responses.translation import translate

_STORE_IS_OFF = "this server keeps none (`responses.store_max_bytes` is 0)"


class ResponsesDialect:
    def __init__(self, store: ResponseStore) -> None:
        self._store = store

    def parse(self, body: bytes | bytearray, caller: Caller) -> Ask:
        parsed = parse_body(body, ResponsesRequest)
        request, keeps = parsed.request, self._store.is_on and parsed.request.store is not False
        history = self._find_history(request, caller.client)
        find_item = partial(self._find_item, caller.client)
        translation = translate(request, history, find_item, detaches=keeps)
        keeper = Keeper(self._store, caller.client, translation.conversation) if keeps else None
        answer_format = ResponsesFormat(request, request.model, keeper)
        return Ask(
            translation.request,
            answer_format,
            parsed.unknown,
            field_names=translation.field_names,
        )

    def describe_error(self, body: dict[str, Any], status: int) -> dict[str, Any]:
        return body

    def _find_history(self, request: ResponsesRequest, client: str) -> Sequence[Message]:
        if request.previous_response_id is None:
            return ()
        kept = self._store.get(client, request.previous_response_id)
        if kept is None:
            raise InvalidRequest(
                "`previous_response_id` is not the id of a response that is kept here"
                + ("" if self._store.is_on else f"; {_STORE_IS_OFF}: send the whole conversation"),
                "previous_response_not_found",
                HISTORY_FIELD,
            )
        return kept.messages

    def _find_item(self, client: str, item_id: str, param: str) -> InputItem:
        found = self._store.find_item(client, item_id)
        if found is None:
            raise InvalidRequest(
                f"`{param}` refers to an item of a response that is not kept here"
                + ("" if self._store.is_on else f"; {_STORE_IS_OFF}: send the item itself"),
                "item_not_found",
                param,
            )
        return read_item(found)
