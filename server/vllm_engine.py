"""The `Engine` over vLLM's AsyncLLM."""

import asyncio
import logging
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Mapping,
    Sequence,
)
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.logprobs import Logprob
from vllm.lora.request import LoRARequest
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.metrics.stats import RequestStateStats

from multimodal.patch_handover import PatchHandover
from multimodal.vllm_input import engine_input
from server.encode_queue import Call
from server.encoder_client import EncoderClient
from server.engine import (
    AdapterRefused,
    CacheTier,
    EngineDetails,
    EngineRequest,
    EngineTimes,
    FinishReason,
    GenerationChunk,
    InvalidSampling,
    LoraAdapter,
    ModelInfo,
    SamplingOptions,
    SleepLevel,
    SleepPart,
    TokenLogprob,
    WorkerWeights,
)
from server.patch_supply import PatchSupply
from server.token_bytes import token_bytes
from server.vllm_cache import VisionCache
from server.vllm_death import Result, engine_death, until_death
from server.vllm_fair_clients import CLIENT_ID
from server.vllm_processes import end_processes
from server.vllm_residence import WeightResidence

logger = logging.getLogger(__name__)

_FINISH_REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "abort": "abort",
    "repetition": "stop",
}
_LEAST_LOGPROB = -9999.0  # OpenAI's, for what cannot be drawn: JSON has no infinity


@dataclass(frozen=True, slots=True)
class RunningEngines:
    """vLLM's engines when they answer.

    Attributes:
        processes: that end with them; see `find_processes`.
        queues: files that must not outlive these; see `find_queues`.
    """

    llm: AsyncLLM
    model_info: ModelInfo
    processes: Collection[psutil.Process]
    queues: Collection[Path]


class VllmEngine:
    """A running AsyncLLM; `server.vllm_start` makes it.

    Args:
        launch: starts the engines once more.
        clean_up: called at the end.
    """

    def __init__(
        self,
        running: RunningEngines,
        launch: Callable[[], Awaitable[RunningEngines]],
        cache: VisionCache,
        clean_up: Callable[[], None],
        encoder: EncoderClient | None = None,
    ) -> None:
        self._use(running)
        self._launch = launch
        self._encoder = encoder
        self._clean_up = clean_up
        self._token_bytes = token_bytes(running.llm.get_tokenizer())
        self._cache = cache
        self._lora_requests: dict[int, LoRARequest] = {}  # by number
        handover = partial(PatchHandover, cache.config.handover_dir)
        self._supply = PatchSupply(handover, self._abort, encoder)
        cache.on_report = self._read_report

    def _use(self, running: RunningEngines) -> None:
        self._running = running
        self._llm = running.llm
        self._residence = WeightResidence(running.llm)

    async def _abort(self, request_id: str) -> None:
        await self._llm.abort(request_id)

    @property
    def model_info(self) -> ModelInfo:
        return self._running.model_info

    @property
    def details(self) -> EngineDetails:
        config = self._llm.vllm_config
        parallel, speculative = config.parallel_config, config.speculative_config
        return EngineDetails(
            device=current_platform.get_device_name(),
            dtype=str(config.model_config.dtype).removeprefix("torch."),
            data_parallel_size=parallel.data_parallel_size,
            tensor_parallel_size=parallel.tensor_parallel_size,
            pipeline_parallel_size=parallel.pipeline_parallel_size,
            enable_expert_parallel=parallel.enable_expert_parallel,
            speculative_method=speculative.method if speculative else None,
            num_speculative_tokens=speculative.num_speculative_tokens if speculative else 0,
            vision_cache_namespace=self._cache.config.namespace,
        )

    @property
    def cache(self) -> VisionCache:
        return self._cache

    async def generate(self, request: EngineRequest) -> AsyncGenerator[GenerationChunk, None]:
        params = _sampling_params(request.sampling, request.client_id)
        items = self._cache.known_items.submit(request.items)
        lora_int_id = self._lora_of_items(request.adapter)
        prompt = engine_input(
            request.prompt_token_ids, items, lora_int_id, cache_salt=request.tenant or None
        )
        num_top, stats = request.sampling.num_logprobs or 0, None
        outputs = self._llm.generate(
            prompt,
            params,
            request.request_id,
            lora_request=self._lora_request_of(request.adapter),
            priority=request.priority,
            reasoning_ended=not request.starts_in_reasoning,
        )
        try:
            with engine_death():
                async with aclosing(outputs):  # closing it aborts the request in the engine
                    with self._supply.serving(request) as supplied:
                        async for output in outputs:
                            stats = output.metrics
                            if supplied.failure is not None:
                                raise supplied.failure
                            yield _chunk(output, num_top, self._token_bytes)
        except VLLMValidationError as error:
            raise InvalidSampling(str(error)) from error
        finally:
            if request.observe_times is not None and stats is not None:
                request.observe_times(request.request_id, _times(stats))

    async def add_lora(self, adapter: LoraAdapter, folder: Path) -> None:
        number = adapter.lora_int_id
        # vLLM takes two adapters of one name for the same, and both may be in use for a while.
        lora_request = LoRARequest(f"{adapter.name}-{number}", number, str(folder))
        with engine_death():
            try:
                await self._call(self._llm.add_lora(lora_request))
            except EngineDeadError:
                raise
            except Exception as error:
                logger.warning("adapter %s cannot be loaded", adapter.name, exc_info=True)
                await self._call(self._llm.remove_lora(number))
                raise AdapterRefused("the engine cannot load it") from error
        self._lora_requests[number] = lora_request

    async def remove_lora(self, lora_int_id: int) -> None:
        del self._lora_requests[lora_int_id]
        with engine_death():
            await self._call(self._llm.remove_lora(lora_int_id))

    async def _call(self, call: Coroutine[Any, Any, Result]) -> Result:
        return await until_death(self._llm, call)

    def _lora_request_of(self, adapter: LoraAdapter | None) -> LoRARequest | None:
        return None if adapter is None else self._lora_requests[adapter.lora_int_id]

    def _lora_of_items(self, adapter: LoraAdapter | None) -> int | None:
        """See `engine_input`."""
        if not self.model_info.lora_targets:
            return None
        return adapter.lora_int_id if adapter is not None and adapter.has_tower else 0

    async def encode_items(self, items: Sequence[Call]) -> Collection[str]:
        """Of a process that only encodes; see `EncodeQueue`. Raises: EngineDead."""
        with engine_death():
            rejected = await self._call(
                self._llm.collective_rpc("encode_items", args=(list(items),))
            )
        return set(rejected[0])

    async def check_health(self) -> None:
        client: Any = self._llm.engine_core
        coordinator = client.resources.coordinator  # vLLM does not watch it
        if coordinator is not None and not coordinator.proc.is_alive():
            self.declare_dead()
        with engine_death():
            await self._llm.check_health()

    async def start_profile(self, max_iterations: int) -> None:
        with engine_death():
            await self._call(self._llm.start_profile(max_iterations=max_iterations))

    async def stop_profile(self) -> None:
        with engine_death():
            await self._call(self._llm.stop_profile())

    async def checksum_weights(self) -> Sequence[WorkerWeights] | None:
        with engine_death():
            return await self._call(self._residence.checksum())

    async def sleep(self, level: SleepLevel) -> None:
        with engine_death():
            await self._call(self._residence.sleep(level))

    async def wake_up(self, parts: Collection[SleepPart]) -> bool:
        with engine_death():
            return await self._call(self._residence.wake_up(parts))

    async def reset_prefix_cache(self) -> bool:
        client: Any = self._llm.engine_core
        with engine_death():  # AsyncLLM tells of the first engine only
            are_reset = await self._call(
                client.call_utility_all_async("reset_prefix_cache", False, False)
            )
        return all(are_reset)

    async def reset_encoder_cache(self, tiers: Collection[CacheTier]) -> None:
        if "device" in tiers:
            with engine_death():
                await self._call(self._llm.reset_encoder_cache())
        await self._cache.clear(tiers)

    def _read_report(self, engine_index: int, report: Mapping[str, Any]) -> None:
        """What an engine's cache says after a step, in the event loop."""
        self._supply.ask(report["needed"], engine_index)

    async def restart(self) -> None:
        await self._end()
        self._cache.known_items.forget_all()
        self._use(await self._launch())
        for lora_request in list(self._lora_requests.values()):
            with engine_death():
                await self._call(self._llm.add_lora(lora_request))

    async def shutdown(self) -> None:
        await self._end()
        if self._encoder is not None:
            await self._encoder.close()
        self._clean_up()

    async def _end(self) -> None:
        # It would take the end of the engine for its death while the other thread ends it.
        if self._llm.output_handler is not None:
            self._llm.output_handler.cancel()
        await asyncio.to_thread(self._llm.shutdown)
        await asyncio.to_thread(end_processes, self._running.processes)
        for path in self._running.queues:
            with suppress(OSError):
                path.unlink()

    def declare_dead(self) -> None:
        """The engines have died; vLLM sees that itself only where it has started them."""
        client: Any = self._llm.engine_core
        client.resources.engine_dead = True
        client.outputs_queue.put_nowait(EngineDeadError())


def _sampling_params(options: SamplingOptions, client_id: str) -> SamplingParams:
    try:
        return SamplingParams(
            max_tokens=options.max_tokens,
            min_tokens=options.min_tokens,
            temperature=options.temperature,
            top_p=options.top_p,
            top_k=options.top_k,
            min_p=options.min_p,
            presence_penalty=options.presence_penalty,
            frequency_penalty=options.frequency_penalty,
            repetition_penalty=options.repetition_penalty,
            seed=options.seed,
            stop_token_ids=list(options.stop_token_ids),
            ignore_eos=options.ignore_eos,
            logit_bias=dict(options.logit_bias) or None,
            logprobs=options.num_logprobs,
            output_kind=RequestOutputKind.DELTA,
            structured_outputs=_structured_outputs(options.structural_tag),
            extra_args={CLIENT_ID: client_id},
        )
    except ValueError as error:  # vLLM's own bounds
        raise InvalidSampling(str(error)) from error


def _structured_outputs(structural_tag: str | None) -> StructuredOutputsParams | None:
    return StructuredOutputsParams(structural_tag=structural_tag) if structural_tag else None


def _chunk(
    output: RequestOutput, num_top: int, token_bytes: Mapping[int, bytes]
) -> GenerationChunk:
    choice, transferred = output.outputs[0], output.ec_transfer_params
    logprobs = _logprobs(choice, num_top, token_bytes) if choice.logprobs else ()
    return GenerationChunk(
        text=choice.text,
        token_ids=tuple(choice.token_ids),
        # the token that ends an answer is no part of its text
        logprobs=logprobs[:-1] if choice.finish_reason == "stop" else logprobs,
        finish_reason=_finish_reason(choice.finish_reason),
        num_cached_tokens=output.num_cached_tokens or 0,
        item_sources=tuple(transferred.get("sources", ())) if transferred else (),
    )


def _times(stats: RequestStateStats) -> EngineTimes:
    """vLLM goes on writing into `stats`, which are of the whole request."""
    return EngineTimes(
        stats.queued_ts, stats.scheduled_ts, stats.first_token_ts, stats.last_token_ts
    )


def _finish_reason(reason: str | None) -> FinishReason | None:
    return None if reason is None else _FINISH_REASONS.get(reason, "error")


def _logprobs(
    choice: CompletionOutput, num_top: int, token_bytes: Mapping[int, bytes]
) -> tuple[TokenLogprob, ...]:
    """vLLM gives one dict per token: the drawn token and the `num_top` most likely."""
    logprobs = []
    for drawn_id, candidates in zip(choice.token_ids, choice.logprobs or (), strict=False):
        top = [
            TokenLogprob(
                token_id, token_bytes.get(token_id, b""), max(entry.logprob, _LEAST_LOGPROB)
            )
            for token_id, entry in sorted(candidates.items(), key=_rank)
            if (entry.rank or 0) <= num_top
        ]
        drawn = candidates[drawn_id].logprob
        logprobs.append(TokenLogprob(drawn_id, token_bytes.get(drawn_id, b""), drawn, tuple(top)))
    return tuple(logprobs)


def _rank(candidate: tuple[int, Logprob]) -> int:
    return candidate[1].rank or 0
