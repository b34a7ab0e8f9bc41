"""`POST /v1/vision/encode`, for language processes: one item's patches into the vision cache."""

from collections.abc import Iterator
from contextlib import contextmanager

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from multimodal.decoded_bytes import DecodedBytes
from server.encode_request import BODY_TYPE, ENCODE_PATH, EncodeRequest, parse_query
from server.errors import InvalidRequest, UnsupportedContentType
from server.request_io import read_body, run_while_connected
from server.state import ServerState

_JSON = "application/json"


class EncodeEndpoint:
    """Answers when the item's embedding can be read from the vision cache.

    Bodies that wait have no more than `media.max_total_decoded_bytes` together; one that would
    exceed it is refused before it is read.
    """

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._bytes = DecodedBytes(state.settings.media.max_total_decoded_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, state = Request(scope, receive), self._state
        with state.metrics.track_request(ENCODE_PATH) as record:
            backend = state.require_encoder()
            with state.take_place(request.state.client):
                record.accept()
                asked = parse_query(request.query_params, backend.preprocessor, backend.namespace)
                _check_headers(request, asked)
                with self._memory(asked.num_bytes):
                    patches = await self._read(request, asked)
                    await run_while_connected(receive, backend.queue.encode(asked, patches))
                response = Response(orjson.dumps({"key": asked.key}), media_type=_JSON)
                await response(scope, receive, send)

    @contextmanager
    def _memory(self, num_bytes: int) -> Iterator[None]:
        """Raises: MediaOverload."""
        self._bytes.take(num_bytes)
        try:
            yield
        finally:
            self._bytes.give_back(num_bytes)

    async def _read(self, request: Request, asked: EncodeRequest) -> bytes:
        """Raises: InvalidRequest for another length than announced; BodyTimeout."""
        timeout_s = self._state.settings.server.body_timeout_s
        body = await read_body(request, asked.num_bytes, timeout_s, lambda: _wrong_length(asked))
        if len(body) != asked.num_bytes:
            raise _wrong_length(asked)
        return bytes(body)


def _check_headers(request: Request, asked: EncodeRequest) -> None:
    """Raises: UnsupportedContentType, InvalidRequest."""
    headers = request.headers
    if headers.get("content-type") != BODY_TYPE or "content-encoding" in headers:
        raise UnsupportedContentType(
            f"the content type must be {BODY_TYPE}, not compressed", "unsupported_content_type"
        )
    if headers.get("content-length", str(asked.num_bytes)) != str(asked.num_bytes):
        raise _wrong_length(asked)


def _wrong_length(asked: EncodeRequest) -> InvalidRequest:
    return InvalidRequest(
        f"the body of this grid must have {asked.num_bytes} bytes", "invalid_length"
    )
