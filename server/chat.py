"""`POST /v1/chat/completions`: the life of a request, from its body to the end of the answer."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from multimodal.items import LoadedMedia, MediaRef
from server.answer import Answer, Delta, PromptUsage
from server.completion import CompletionHead, complete
from server.engine import EngineRequest, GenerationChunk
from server.errors import ModelNotFound, Overloaded
from server.media_refs import count_bytes, load_media_refs
from server.messages import MediaSource, build_conversation
from server.metrics import RequestRecord
from server.protocol import ChatCompletionRequest, parse_chat_request
from server.reasoning import ReasoningSplitter, resolve_thinking
from server.request_io import read_json_body, run_while_connected, with_write_timeout
from server.sampling import check_context, fit_to_context, resolve_sampling
from server.state import Backend, ServerState
from server.streaming import iterate_events, send_event_stream
from server.tenant import tenant_of

logger = logging.getLogger(__name__)

_SOURCES_HEADER = "x-include-item-sources"  # opts in to `usage.prompt_tokens_details.item_sources`


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request that the engine can take, and the answer that it will fill."""

    engine_request: EngineRequest
    answer: Answer


class ChatCompletions:
    """An ASGI endpoint, so that one function holds a request from the first byte to the last."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._metrics = state.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        http_request, limits = Request(scope, receive), self._state.settings.server
        with self._metrics.track_request() as record, self._state.accept() as backend:
            record.accept()
            request = parse_chat_request(
                await read_json_body(http_request, limits.max_body_bytes, limits.body_timeout_s)
            )
            _check_model(request, backend)
            tenant = tenant_of(http_request.headers, self._state.settings.cache)
            exchange = _Exchange(self._state, backend, request, record, tenant)
            exchange.tells_sources = _SOURCES_HEADER in http_request.headers
            del request  # large, and not needed any more when the media are loaded
            send = with_write_timeout(send, limits.write_timeout_s)
            respond = exchange.respond(send, http_request.state.request_id)
            await run_while_connected(receive, respond)


def _check_model(request: ChatCompletionRequest, backend: Backend) -> None:
    name = backend.engine.model_info.name
    if request.model != name:
        raise ModelNotFound(f"the model served here is `{name}`", "model_not_found", "model")


class _Exchange:
    """One accepted request with what it needs."""

    def __init__(
        self,
        state: ServerState,
        backend: Backend,
        request: ChatCompletionRequest,
        record: RequestRecord,
        tenant: str,
    ) -> None:
        self.tells_sources = False
        self._state = state
        self._metrics = state.metrics
        self._backend = backend
        self._request = request
        self._record = record
        self._tenant = tenant

    async def respond(self, send: Send, http_request_id: str) -> None:
        """Answer, whole or as a stream. However this ends, the engine holds nothing of it after."""
        model_info = self._backend.engine.model_info
        # not the client's request id: the engine's must be unique
        completion_id = f"chatcmpl-{uuid.uuid4().hex}"
        head = CompletionHead(completion_id, int(time.time()), model_info.name)
        async with self._state.until_shutdown():
            prepared = await self._prepare(completion_id)
        self._request = self._request.model_copy(update={"messages": []})
        answer = prepared.answer
        logger.debug("request %s runs as %s", http_request_id, completion_id)
        chunks = self._backend.engine.generate(prepared.engine_request)
        try:
            async with aclosing(chunks):
                deltas = answer.read(self._observe_first(chunks))
                if self._request.stream:
                    await self._send_stream(send, head, answer, deltas, http_request_id)
                else:
                    await self._send_whole(send, head, answer, deltas)
        finally:
            self._metrics.completion_tokens.inc(answer.num_completion_tokens)

    async def _send_whole(
        self, send: Send, head: CompletionHead, answer: Answer, deltas: AsyncIterator[Delta]
    ) -> None:
        async with self._state.until_shutdown():
            body = await complete(head, answer, deltas, with_logprobs=bool(self._request.logprobs))
        response = Response(orjson.dumps(body), media_type="application/json")
        start = {"status": 200, "headers": response.raw_headers}
        await send({"type": "http.response.start", **start})
        await send({"type": "http.response.body", "body": response.body})

    async def _send_stream(
        self,
        send: Send,
        head: CompletionHead,
        answer: Answer,
        deltas: AsyncIterator[Delta],
        http_request_id: str,
    ) -> None:
        events = iterate_events(
            head,
            answer,
            deltas,
            with_logprobs=bool(self._request.logprobs),
            with_usage=self._request.includes_usage,
        )
        limit = self._state.until_shutdown
        if await send_event_stream(send, events, http_request_id, limit) is not None:
            self._record.fail(status=200)

    async def _observe_first(
        self, chunks: AsyncIterator[GenerationChunk]
    ) -> AsyncIterator[GenerationChunk]:
        is_first = True
        async for chunk in chunks:
            if is_first:
                is_first = False
                self._record.observe_first_output()
            yield chunk

    async def _prepare(self, completion_id: str) -> PreparedRequest:
        """Everything before the engine, in the order of its cost."""
        request, renderer = self._request, self._backend.renderer
        max_model_len = self._backend.engine.model_info.max_model_len
        sampling = resolve_sampling(request, renderer.generation_defaults, max_model_len)
        kwargs = request.chat_template_kwargs
        thinking = resolve_thinking(renderer.kind, kwargs.enable_thinking if kwargs else None)
        conversation = build_conversation(request)
        rendered = await asyncio.to_thread(
            renderer.render, conversation.messages, enable_thinking=thinking
        )
        check_context(len(rendered.token_ids), max_model_len)
        num_text_tokens = len(rendered.token_ids) - len(conversation.media)
        refs = await self._load_refs(conversation.media)
        media = await self._load_media(refs, max_model_len - 1 - num_text_tokens)
        prompt = renderer.expand(rendered, media)  # 1 ms for 256K tokens
        num_tokens = len(prompt.token_ids)
        sampling = fit_to_context(sampling, num_tokens, max_model_len)
        usage = PromptUsage(num_tokens, prompt.count_tokens("image"), prompt.count_tokens("video"))
        self._count_prompt(usage)
        splitters = [
            ReasoningSplitter(
                starts_in_reasoning=rendered.starts_in_reasoning, may_reason=rendered.may_reason
            )
            for _ in range(sampling.n)
        ]
        load_patches = partial(self._backend.pipeline.load_patches, refs, tenant=self._tenant)
        return PreparedRequest(
            EngineRequest(completion_id, prompt.token_ids, prompt.items, sampling, load_patches),
            Answer(usage, splitters, tells_sources=self.tells_sources),
        )

    async def _load_refs(self, sources: Sequence[MediaSource]) -> list[MediaRef]:
        if not sources:
            return []
        with self._metrics.media_fetch_s.time():
            refs = await load_media_refs(sources, self._backend.fetcher, self._state.settings.media)
        self._metrics.media_bytes.inc(sum(map(count_bytes, refs)))
        return refs

    async def _load_media(self, refs: Sequence[MediaRef], max_tokens: int) -> list[LoadedMedia]:
        if not refs:
            return []
        metrics, timeout_s = self._metrics, self._state.settings.media.load_timeout_s
        try:
            with metrics.media_load_s.time():
                async with asyncio.timeout(timeout_s):
                    media = await self._backend.pipeline.load(refs, max_tokens, tenant=self._tenant)
        except TimeoutError:
            raise Overloaded(
                f"the media were not loaded within load_timeout_s ({timeout_s:g}), waiting "
                "for other requests included",
                "media_timeout",
            ) from None
        for part in media:
            metrics.media_items.labels(part.modality).inc()
            for item in part.items:
                metrics.visual_items.labels("known" if item.patches is None else "decoded").inc()
        return media

    def _count_prompt(self, usage: PromptUsage) -> None:
        num_media_tokens = usage.num_image_tokens + usage.num_video_tokens
        tokens = self._metrics.prompt_tokens
        tokens.labels("text").inc(usage.num_tokens - num_media_tokens)
        tokens.labels("image").inc(usage.num_image_tokens)
        tokens.labels("video").inc(usage.num_video_tokens)
