"""The endpoints that generate: the life of a request, from its body to the end of the answer."""

import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import orjson
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from server.access.allowance import Allowance
from server.access.client import Client
from server.answer import Answer
from server.ask import Ask, Caller, Dialect
from server.choice import Delta
from server.deadline import Deadline
from server.errors import DeadlineExceeded, code_of
from server.event_stream import send_event_stream
from server.field_names import named_by
from server.metrics import RequestRecord
from server.preparation import Preparation
from server.prepared import PreparedAnswer
from server.request_io import (
    parse_aside,
    read_json_body,
    run_while_connected,
    with_write_timeout,
)
from server.request_log import add_fields
from server.state import Backend, ServerState
from server.trace import current_trace, traced

logger = logging.getLogger(__name__)

_SOURCES_HEADER = "x-include-item-sources"  # opts in to `usage.prompt_tokens_details.item_sources`
_WARNING_HEADER = "warning"
_UNQUOTED = str.maketrans({'"': "'", "\\": "/"})  # neither may stand in a quoted text


class GenerationEndpoint:
    """An ASGI endpoint, so that one function holds a request from the first byte to the last."""

    def __init__(self, state: ServerState, dialect: Dialect) -> None:
        self._state = state
        self._dialect = dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        http_request, settings = Request(scope, receive), self._state.settings
        http_request.state.describe_error = self._dialect.describe_error
        limits = settings.server
        client: Client = http_request.state.client
        with (
            traced(self._state.tracing, scope),
            self._state.metrics.track_request(scope["path"]) as record,
            self._state.accept(client) as backend,
            self._state.body_bytes.account(client.id) as held,
        ):
            record.accept()
            deadline = Deadline.begin(http_request.headers, limits.request_timeout_s)
            async with deadline.limit():
                body = await read_json_body(
                    http_request, limits.max_body_bytes, limits.body_timeout_s, held.take
                )
            caller = Caller(client.id, backend.engine.model_info.name)
            ask = await parse_aside(self._dialect.parse, body, caller)
            del body  # it lives as long as the data URLs in `ask` do
            send = _with_warning(with_write_timeout(send, limits.write_timeout_s), ask.unknown)
            tells_sources = _SOURCES_HEADER in http_request.headers
            with backend.adapters.using(ask.request.model) as adapter:
                tenant = client.tenant(settings.cache)
                preparation = Preparation(
                    backend, settings, self._state.metrics, tenant, held, adapter
                )
                allowance: Allowance | None = http_request.state.allowance
                exchange = _Exchange(
                    self._state,
                    backend,
                    ask,
                    record,
                    preparation,
                    deadline,
                    tells_sources,
                    allowance,
                )
                del ask  # large, and not needed any more when the media are loaded
                respond = exchange.respond(send, http_request.state.request_id)
                await run_while_connected(receive, respond)


class _Exchange:
    """One accepted request with what it needs."""

    def __init__(
        self,
        state: ServerState,
        backend: Backend,
        ask: Ask,
        record: RequestRecord,
        preparation: Preparation,
        deadline: Deadline,
        tells_sources: bool,
        allowance: Allowance | None,
    ) -> None:
        self._allowance = allowance
        self._num_charged = 0
        self._tells_sources = tells_sources
        self._state = state
        self._engine = backend.engine
        self._preparation = preparation
        self._deadline = deadline
        self._ask: Ask | None = ask
        self._format = ask.format
        self._model = ask.request.model
        self._streams = bool(ask.request.stream)
        self._record = record

    async def respond(self, send: Send, request_id: str) -> None:
        """Answer, whole or as a stream. However this ends, the engine holds nothing of it after."""
        async with self._limit():
            prepared = await self._prepare()
        answer = prepared.answer
        if self._allowance is not None:
            self._allowance.take_prompt(answer.usage.prompt.num_tokens)
        current_trace().observe_start(
            self._model, self._format.answer_id, prepared.requests, streams=self._streams
        )
        logger.debug("generating", extra={"fields": {"answer_id": self._format.answer_id}})
        try:
            async with aclosing(answer.read(prepared.start(self._engine))) as deltas:
                observed = self._observe(deltas)
                if self._streams:
                    await self._send_stream(send, answer, observed, request_id)
                else:
                    await self._send_whole(send, answer, observed)
        finally:
            self._charge(answer)
            usage = answer.usage
            add_fields(completion_tokens=usage.num_completion_tokens)
            self._record.count_tokens(usage.num_completion_tokens, usage.num_reasoning_tokens)
            current_trace().observe_usage(usage)

    async def _prepare(self) -> PreparedAnswer:
        ask, self._ask = self._ask, None
        assert ask is not None
        with named_by(ask.field_names):
            prepared = await self._preparation.prepare(ask, tells_sources=self._tells_sources)
        self._preparation.forget_body()
        return prepared

    async def _send_whole(self, send: Send, answer: Answer, deltas: AsyncIterator[Delta]) -> None:
        async with self._limit():
            body = await self._format.collect(answer, deltas)
        self._charge(answer)  # before the headers, which tell what is left
        response = Response(orjson.dumps(body), media_type="application/json")
        start = {"status": 200, "headers": response.raw_headers}
        try:
            async with self._deadline.limit():
                await send({"type": "http.response.start", **start})
                await send({"type": "http.response.body", "body": response.body})
        except DeadlineExceeded:  # there is no way left to say so
            raise ClientDisconnect from None

    def _charge(self, answer: Answer) -> None:
        """The API key for what was generated since the last time."""
        num_tokens = answer.usage.num_completion_tokens
        if self._allowance is not None:
            self._allowance.take_answer(num_tokens - self._num_charged)
        self._num_charged = num_tokens

    async def _send_stream(
        self, send: Send, answer: Answer, deltas: AsyncIterator[Delta], request_id: str
    ) -> None:
        events = self._format.iterate_events(answer, deltas)
        failure = await send_event_stream(send, events, self._format, request_id, self._limit)
        if failure is not None:
            self._record.fail(200, code_of(failure))

    @asynccontextmanager
    async def _limit(self) -> AsyncIterator[None]:
        """Raises: NotReady at the end of a shutdown's time, DeadlineExceeded of the request's."""
        async with self._state.until_shutdown(), self._deadline.limit():
            yield

    async def _observe(self, deltas: AsyncIterator[Delta]) -> AsyncIterator[Delta]:
        is_first = True
        async for delta in deltas:
            if is_first:
                is_first = False
                self._record.observe_first_output()
            if delta.finish_reason is not None:
                current_trace().observe_finish(delta.finish_reason)
            yield delta


def _with_warning(send: Send, unknown: tuple[str, ...]) -> Send:
    """`send` whose answer names the fields of the request that were ignored."""
    if not unknown:
        return send
    names = ", ".join(unknown).encode("ascii", "replace").decode().translate(_UNQUOTED)
    printable = "".join(character if character.isprintable() else "?" for character in names)

    async def send_with_warning(message: Message) -> None:
        if message["type"] == "http.response.start":
            warning = f'299 - "unknown fields are ignored: {printable}"'
            MutableHeaders(scope=message)[_WARNING_HEADER] = warning
        await send(message)

    return send_with_warning
