"""From a request to what the engine takes, in the order of the cost of its steps."""

import asyncio
import uuid
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial

from multimodal.items import LoadedMedia, MediaRef
from multimodal.layout import ExpandedPrompt
from server.answer import Answer, PromptUsage
from server.ask import Ask
from server.choice import ChoiceReader
from server.conversation import MediaSource, build_conversation, usable_tools
from server.engine import EngineRequest, LoraAdapter, SamplingOptions
from server.errors import Overloaded
from server.grammar.answer_grammar import find_grammar
from server.held_bytes import HeldBytes
from server.media_refs import count_bytes, load_media_refs
from server.metrics import Metrics
from server.prepared import PreparedAnswer, PreparedPrompt
from server.protocol import ChatCompletionRequest
from server.reasoning import ReasoningSplitter
from server.request_log import add_fields
from server.sampling import check_context, fit_to_context, resolve_sampling, sample_choice
from server.settings import Settings
from server.state import Backend
from server.stop_strings import StopStrings
from server.text_prompts import encode_prompts
from server.thinking import Thinking, resolve_thinking
from server.thinking_budget import ThinkingBudget
from server.tools.tool_calls import ToolCallParser
from server.trace import current_trace


class Preparation:
    """Prepares one request. Args: held: so far, its body."""

    def __init__(
        self,
        backend: Backend,
        settings: Settings,
        metrics: Metrics,
        tenant: str,
        held: HeldBytes,
        adapter: LoraAdapter | None = None,
    ) -> None:
        self._held = held
        self._num_body_bytes = held.num_bytes
        self._backend = backend
        self._renderer = backend.renderer
        self._settings = settings
        self._metrics = metrics
        self._adapter = adapter
        self._client_tenant = self._tenant = tenant
        if adapter is not None and adapter.has_tower:
            self._tenant += f"+lora-{adapter.digest}"  # its embeddings are nobody else's

    async def prepare(self, ask: Ask, *, tells_sources: bool) -> PreparedAnswer:
        """Raises: whatever `server.errors` has for requests that cannot be answered."""
        request, model_info = ask.request, self._backend.engine.model_info
        sampling = resolve_sampling(
            request, self._renderer.generation_defaults, model_info.max_model_len
        )
        if isinstance(request, ChatCompletionRequest):
            thinking = self._resolve_thinking(request, ask.prefers_no_thinking)
            grammar = find_grammar(request)
            if grammar is not None:
                await self._backend.grammars.check(grammar, self._held.client_id)
                sampling = replace(sampling, structural_tag=grammar.structural_tag)
            prompts = [await self._prepare_conversation(request, thinking)]
        else:
            prompts = await asyncio.to_thread(
                encode_prompts, request, self._renderer, model_info.max_model_len
            )
        return self._assemble(ask, prompts, sampling, tells_sources)

    def forget_body(self) -> None:
        """Its bytes are not held any more; those of the media are."""
        self._held.give_back(self._num_body_bytes)
        self._num_body_bytes = 0

    async def prepare_chat(
        self, request: ChatCompletionRequest, *, prefers_no_thinking: bool = False
    ) -> PreparedPrompt:
        """The prompt of a conversation, with its media loaded; see `Ask`."""
        thinking = self._resolve_thinking(request, prefers_no_thinking)
        return await self._prepare_conversation(request, thinking)

    def _resolve_thinking(
        self, request: ChatCompletionRequest, prefers_no_thinking: bool
    ) -> Thinking:
        kind, by_default = self._renderer.kind, self._renderer.thinks_by_default
        if prefers_no_thinking and kind == "hybrid":
            by_default = False
        return resolve_thinking(request, kind, thinks_by_default=by_default)

    async def _prepare_conversation(
        self, request: ChatCompletionRequest, thinking: Thinking
    ) -> PreparedPrompt:
        renderer, max_model_len = self._renderer, self._backend.engine.model_info.max_model_len
        conversation = build_conversation(request)
        token_ids = await asyncio.to_thread(
            renderer.render,
            conversation.messages,
            thinking=thinking.enabled,
            tools=conversation.tools,
        )
        check_context(len(token_ids), max_model_len)
        num_text_tokens = len(token_ids) - len(conversation.media)
        refs = await self._load_refs(conversation.media)
        media = await self._load_media(refs, max_model_len - 1 - num_text_tokens)
        return PreparedPrompt(
            renderer.expand(token_ids, media),  # 1 ms for 256K tokens
            partial(self._backend.pipeline.load_patches, refs, tenant=self._tenant),
            thinking,
        )

    def _assemble(
        self,
        ask: Ask,
        prompts: Sequence[PreparedPrompt],
        sampling: SamplingOptions,
        tells_sources: bool,
    ) -> PreparedAnswer:
        max_model_len = self._backend.engine.model_info.max_model_len
        requests: list[EngineRequest] = []
        for prompt in prompts:
            num_tokens = len(prompt.expanded.token_ids)
            fitted = fit_to_context(sampling, num_tokens, max_model_len)
            for _ in range(ask.request.n or 1):
                index = len(requests)
                requests.append(
                    EngineRequest(
                        f"{ask.format.answer_id}-{index}",
                        prompt.expanded.token_ids,
                        prompt.expanded.items,
                        sample_choice(fitted, index),
                        prompt.load_patches,
                        starts_in_reasoning=prompt.thinking.enabled,
                        priority=ask.request.priority or 0,
                        adapter=self._adapter,
                        tenant=self._client_tenant,
                        client_id=self._held.client_id,
                        observe_times=current_trace().observe_times,
                    )
                )
        usage = count_prompts([prompt.expanded for prompt in prompts])
        self._count_prompt(usage)
        names = _find_tool_names(ask)
        readers = [self._make_reader(ask, names, *numbered) for numbered in enumerate(requests)]
        return PreparedAnswer(
            Answer(usage, readers, num_prompts=len(prompts), tells_sources=tells_sources),
            tuple(requests),
            self._make_budget(prompts[0].thinking),
        )

    def _make_reader(
        self, ask: Ask, tool_names: Collection[str], index: int, engine_request: EngineRequest
    ) -> ChoiceReader:
        request, close_id = ask.request, self._renderer.close_id
        included = bool(request.include_stop_str_in_output)
        splitter = None
        if engine_request.starts_in_reasoning and close_id is not None:
            splitter = ReasoningSplitter(close_id)
        return ChoiceReader(
            index,
            splitter=splitter,
            stops=StopStrings(request.stop, included=included) if request.stop else None,
            min_tokens=engine_request.sampling.min_tokens,
            tools=ToolCallParser(tool_names, _make_call_id) if tool_names else None,
        )

    def _make_budget(self, thinking: Thinking) -> ThinkingBudget | None:
        close_id = self._renderer.close_id
        if thinking.budget is None or close_id is None:
            return None
        end = self._renderer.end_thinking(self._settings.thinking.early_stopping_text)
        return ThinkingBudget(thinking.budget, close_id, end, self._renderer.decode)

    async def _load_refs(self, sources: Sequence[MediaSource]) -> list[MediaRef]:
        if not sources:
            return []
        with self._metrics.media_fetch_s.time(), current_trace().stage("media.fetch"):
            refs = await load_media_refs(
                sources, self._backend.fetcher, self._settings.media, self._held.take
            )
        self._metrics.media_bytes.inc(sum(map(count_bytes, refs)))
        return refs

    async def _load_media(self, refs: Sequence[MediaRef], max_tokens: int) -> list[LoadedMedia]:
        if not refs:
            return []
        metrics, timeout_s = self._metrics, self._settings.media.load_timeout_s
        try:
            with metrics.media_load_s.time(), current_trace().stage("media.decode"):
                async with asyncio.timeout(timeout_s):
                    media = await self._backend.pipeline.load(refs, max_tokens, tenant=self._tenant)
        except TimeoutError:
            raise Overloaded(
                f"the media were not loaded within load_timeout_s ({timeout_s:g}), waiting "
                "for other requests included",
                "media_timeout",
            ) from None
        add_fields(num_media=len(media))
        for part in media:
            metrics.media_items.labels(part.modality).inc()
            for item in part.items:
                metrics.visual_items.labels("known" if item.patches is None else "decoded").inc()
        return media

    def _count_prompt(self, usage: PromptUsage) -> None:
        add_fields(prompt_tokens=usage.num_tokens)
        self._metrics.request_prompt_tokens.observe(usage.num_tokens)
        num_media_tokens = usage.num_image_tokens + usage.num_video_tokens
        tokens = self._metrics.prompt_tokens
        tokens.labels("text").inc(usage.num_tokens - num_media_tokens)
        tokens.labels("image").inc(usage.num_image_tokens)
        tokens.labels("video").inc(usage.num_video_tokens)


def _find_tool_names(ask: Ask) -> set[str]:
    if not isinstance(ask.request, ChatCompletionRequest):
        return set()
    return {tool.function.name for tool in usable_tools(ask.request)}


def _make_call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


def count_prompts(prompts: Sequence[ExpandedPrompt]) -> PromptUsage:
    return PromptUsage(
        sum(len(prompt.token_ids) for prompt in prompts),
        sum(prompt.count_tokens("image") for prompt in prompts),
        sum(prompt.count_tokens("video") for prompt in prompts),
    )
