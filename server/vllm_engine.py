"""The `Engine` over vLLM's AsyncLLM."""

import asyncio
import gc
import logging
import os
import socket
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMValidationError
from vllm.logprobs import Logprob
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.metrics.loggers import StatLoggerBase, StatLoggerFactory

from multimodal.checkpoint_files import read_checkpoint_json
from multimodal.known_items import AllKnown, KnownItems
from multimodal.patch_handover import PatchHandover
from multimodal.vision_cache import VisionCacheConfig
from multimodal.vllm_input import engine_input
from server.cache_config import vision_cache_config
from server.cache_metrics import CacheMetrics
from server.encode_queue import Call
from server.encoder_client import EncoderClient
from server.engine import (
    EngineDead,
    EngineRequest,
    FinishReason,
    GenerationChunk,
    InvalidSampling,
    ModelInfo,
    SamplingOptions,
    TokenLogprob,
)
from server.patch_supply import PatchSupply
from server.settings import CacheSettings, EngineSettings
from server.token_bytes import token_bytes
from server.vllm_args import engine_args, is_cpu, num_workers, set_engine_environment

logger = logging.getLogger(__name__)

_RANDOM_WEIGHTS_KEY = "qwen3vl_serve_random_weights"  # written by demo.random_checkpoint
_FINISH_REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "abort": "abort",
    "repetition": "stop",
}
_LEAST_LOGPROB = -9999.0  # OpenAI's, for what cannot be drawn: JSON has no infinity


class VllmEngine:
    """A running AsyncLLM. Build it with `start_engine`."""

    def __init__(
        self,
        llm: AsyncLLM,
        model_info: ModelInfo,
        cache: "VisionCache",
        run_folder: TemporaryDirectory[str],
        encoder: EncoderClient | None = None,
    ) -> None:
        self._llm = llm
        self._encoder = encoder
        self._run_folder = run_folder
        self._model_info = model_info
        self._token_bytes = token_bytes(llm.get_tokenizer())
        self._cache = cache
        handover = PatchHandover(cache.config.handover_dir)
        self._supply = PatchSupply(handover, llm.abort, encoder)
        cache.on_report = self._read_report

    @property
    def model_info(self) -> ModelInfo:
        return self._model_info

    @property
    def cache(self) -> "VisionCache":
        return self._cache

    async def generate(self, request: EngineRequest) -> AsyncGenerator[GenerationChunk, None]:
        params = _sampling_params(request.sampling)
        items = self._cache.known_items.submit(request.items)
        prompt = engine_input(request.prompt_token_ids, items)
        num_top = request.sampling.num_logprobs or 0
        outputs = self._llm.generate(
            prompt,
            params,
            request.request_id,
            priority=request.priority,
            reasoning_ended=not request.starts_in_reasoning,
        )
        try:
            with _engine_death():
                async with aclosing(outputs):  # closing it aborts the request in the engine
                    with self._supply.serving(request) as supplied:
                        async for output in outputs:
                            if supplied.failure is not None:
                                raise supplied.failure
                            yield _chunk(output, num_top, self._token_bytes)
        except VLLMValidationError as error:
            raise InvalidSampling(str(error)) from error

    async def encode_items(self, items: Sequence[Call]) -> Collection[str]:
        """Of a process that only encodes; see `EncodeQueue`. Raises: EngineDead."""
        with _engine_death():
            rejected = await self._llm.collective_rpc("encode_items", args=(list(items),))
        return set(rejected[0])

    async def check_health(self) -> None:
        with _engine_death():
            await self._llm.check_health()

    async def start_profile(self, max_iterations: int) -> None:
        with _engine_death():
            await self._llm.start_profile(max_iterations=max_iterations)

    async def stop_profile(self) -> None:
        with _engine_death():
            await self._llm.stop_profile()

    def _read_report(self, report: Mapping[str, Any]) -> None:
        """What the engine's cache says after a step, in the event loop."""
        self._cache.tiers.set_bypassed(report["bypassed"])
        for key in report["needed"]:
            self._cache.known_items.forget(key)
        self._supply.ask(report["needed"])

    async def shutdown(self) -> None:
        # It would take the end of the engine for its death while the other thread ends it.
        if self._llm.output_handler is not None:
            self._llm.output_handler.cancel()
        await asyncio.to_thread(self._llm.shutdown)
        if self._encoder is not None:
            await self._encoder.close()
        self._run_folder.cleanup()


@contextmanager
def _engine_death() -> Iterator[None]:
    """What vLLM raises when its engine has died, in our words."""
    try:
        yield
    except EngineDeadError as error:
        raise EngineDead("the engine has stopped") from error


class VisionCache:
    """The vision cache as this process sees it.

    Attributes:
        metrics: of the engine's last report.
        on_report: called with each report; see `SchedulerCache.take_stats`.
    """

    def __init__(self, config: VisionCacheConfig) -> None:
        self.config = config
        self.tiers = config.open_tiers()
        self.known_items = (KnownItems if config.has_encoder else AllKnown)(self.tiers)
        self.metrics = CacheMetrics()
        self.on_report: Callable[[Mapping[str, Any]], None] = lambda report: None

    def make_logger(self, vllm_config: VllmConfig, engine_index: int = 0) -> "_ReportReader":
        return _ReportReader(self)

    def read(self, report: Mapping[str, Any]) -> None:
        self.metrics.update(report)
        self.on_report(report)


class _ReportReader(StatLoggerBase):
    """vLLM's way to get statistics from the engine's process."""

    def __init__(self, cache: VisionCache) -> None:
        self._cache = cache

    def record(self, scheduler_stats: Any, *args: Any, **kwargs: Any) -> None:
        if scheduler_stats is not None and scheduler_stats.ec_connector_stats:
            self._cache.read(scheduler_stats.ec_connector_stats)

    def log_engine_initialized(self) -> None:
        pass


def starts_by_fork(settings: EngineSettings) -> bool:
    """Whether the engine process is a fork of this one, which must then hold no sockets yet."""
    return is_cpu(settings) and num_workers(settings) == 1


async def start_engine(
    model: str,
    settings: EngineSettings,
    cache_settings: CacheSettings,
    profile_dir: Path | None = None,
) -> VllmEngine:
    """Start the engine and wait until it answers.

    Args:
        profile_dir: where it may be asked to write profiles; None: nowhere.
    Raises: RuntimeError if the model class in use is not ours; whatever vLLM raises for a model or
        settings that it cannot start.
    """
    run_folder = TemporaryDirectory(prefix="qwen3vl-serve-")
    device = "cpu" if is_cpu(settings) else "cuda"
    handover_dir = Path(run_folder.name) / "patches"
    config = await asyncio.to_thread(  # it reads the vision weights
        vision_cache_config, model, settings, cache_settings, device, handover_dir
    )
    cache = VisionCache(config)
    args = engine_args(model, settings, cache.config, cache_settings.device_bytes, profile_dir)
    set_engine_environment(settings, args, run_folder.name)
    start = _start_in_one_process if starts_by_fork(settings) else AsyncLLM.from_engine_args
    # In a thread of its own: a process forked from a thread that has used OpenMP hangs in it.
    llm = await asyncio.to_thread(start, args, stat_loggers=[cache.make_logger])
    try:
        await llm.collective_rpc("end_with_server", args=(socket.gethostname(), os.getpid()))
        await llm.collective_rpc("keep_seeds")
        await llm.collective_rpc("make_stage_input")
        if settings.cudagraph_mm_encoder:
            await llm.collective_rpc("use_vision_graphs")
        counts = (await llm.collective_rpc("count_parameters"))[0]
        logger.info("parameters here: %s", ", ".join(f"{n} {m:,}" for n, m in counts.items()))
        implementation = (await llm.collective_rpc("describe_model"))[0]
        if not implementation.startswith("model_executor."):
            raise RuntimeError(
                f"vLLM runs {implementation} instead of this project's model; is the plugin "
                "disabled by VLLM_PLUGINS?"
            )
    except BaseException:
        await asyncio.to_thread(llm.shutdown)
        raise
    model_info = ModelInfo(
        name=settings.served_model_name or settings.model,
        max_model_len=llm.model_config.max_model_len,
        implementation=implementation,
        random_weights=_has_random_weights(model, settings.revision),
    )
    encoder = None
    if settings.encoder_url is not None:
        encoder = EncoderClient(settings.encoder_url, config.namespace)
    return VllmEngine(llm, model_info, cache, run_folder, encoder)


def _start_in_one_process(args: AsyncEngineArgs, stat_loggers: list[StatLoggerFactory]) -> AsyncLLM:
    """Start the engine as one forked process instead of two spawned ones.

    On a CPU vLLM spawns the engine core, which spawns a worker: each imports vLLM again, which is
    most of its start-up time. With one worker, the engine core can run it itself (`uni`), and a
    fork has vLLM imported already. vLLM reads both choices from the environment.
    """
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # lets the `uni` executor stand
    config = args.create_engine_config()
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"  # vLLM's CPU platform has set `spawn`
    gc.freeze()  # the engine would collect all that it inherits, for 1 s, and copy the pages
    return AsyncLLM.from_vllm_config(config, stat_loggers=stat_loggers)


def _has_random_weights(model: str, revision: str | None) -> bool:
    config = read_checkpoint_json(model, "config.json", revision) or {}
    return bool(config.get(_RANDOM_WEIGHTS_KEY))


def _sampling_params(options: SamplingOptions) -> SamplingParams:
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
