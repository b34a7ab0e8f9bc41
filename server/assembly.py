"""From an engine that has started to all that answers requests with it."""

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from multimodal.checkpoint_files import read_checkpoint_json
from server.engine_restarts import freeze_garbage
from server.lora_adapters import LoraAdapters
from server.metrics import Metrics
from server.settings import Settings
from server.state import Backend, EncoderBackend

if TYPE_CHECKING:  # imports vLLM
    from server.vllm_engine import VllmEngine

logger = logging.getLogger(__name__)

_MAX_BATCH_TOKENS = 4096  # of an encoder; all of its memory beside the weights grows with them


async def load_backend(
    settings: Settings,
    model: str,
    metrics: Metrics,
    start_engine: Callable[[], Awaitable["VllmEngine"]],
) -> Backend | EncoderBackend:
    engine = await start_engine()
    assemble = _assemble_encoder if settings.engine.role == "encoder" else _assemble
    try:
        backend = assemble(settings, model, engine, metrics)
    except BaseException:
        await engine.shutdown()
        raise
    try:
        if isinstance(backend, Backend):
            await backend.adapters.load_configured()
    except BaseException:
        await backend.close()
        raise
    freeze_garbage()
    return backend


def _assemble(settings: Settings, model: str, engine: "VllmEngine", metrics: Metrics) -> Backend:
    from multimodal.pipeline import MediaPipeline
    from multimodal.preprocessor_config import load_preprocessor_config
    from server.grammar.check import GrammarChecker
    from server.local_media import LocalMedia
    from server.media_fetch import MediaFetcher
    from server.prompt import PromptRenderer

    info, media = engine.model_info, settings.media
    folder, cache = media.allowed_local_media_path, engine.cache
    metrics.add(cache.metrics)
    renderer = PromptRenderer(model, settings.engine.revision, info.max_model_len)
    logger.info("serving %s (%s, %s)", info.name, renderer.kind, info.implementation)
    if info.random_weights:
        logger.warning("the weights of %s are random: its answers mean nothing", info.name)
    config = read_checkpoint_json(model, "config.json", settings.engine.revision) or {}
    return Backend(
        engine=engine,
        renderer=renderer,
        pipeline=MediaPipeline(
            load_preprocessor_config(model, settings.engine.revision),
            media.limits,
            namespace=cache.config.namespace,
            num_workers=media.num_workers,
            known=cache.known_items,
            observe=metrics.observe_media_stage,
        ),
        fetcher=MediaFetcher(
            http_allowed=media.http_allowed,
            allowed_domains=media.allowed_domains,
            connect_timeout_s=media.connect_timeout_s,
            total_timeout_s=media.fetch_timeout_s,
            max_redirects=media.max_redirects,
            max_parallel=media.max_parallel_fetches,
            denied_domains=media.denied_domains,
            max_parallel_per_host=media.max_parallel_fetches_per_host,
            local=LocalMedia(folder, media.fetch_timeout_s) if folder else None,
        ),
        grammars=GrammarChecker(
            model,
            settings.engine.revision,
            config["text_config"]["vocab_size"],
            timeout_s=settings.grammar.compile_timeout_s,
            max_bytes=settings.grammar.compile_max_bytes,
        ),
        adapters=LoraAdapters(engine, settings.engine),
    )


def _assemble_encoder(
    settings: Settings, model: str, engine: "VllmEngine", metrics: Metrics
) -> EncoderBackend:
    from multimodal.preprocessor_config import load_preprocessor_config
    from server.encode_queue import EncodeQueue

    info, cache = engine.model_info, engine.cache
    logger.info("encoding for %s (%s)", info.name, info.implementation)
    max_batch_tokens = settings.engine.max_num_batched_tokens or _MAX_BATCH_TOKENS
    return EncoderBackend(
        engine=engine,
        queue=EncodeQueue(
            engine.encode_items,
            cache.tiers.contains,
            max_batch_tokens,
            metrics.observe_encoded_batch,
        ),
        preprocessor=load_preprocessor_config(model, settings.engine.revision),
        namespace=cache.config.namespace,
    )
