"""`qwen3vl-serve serve --node-rank N`: a machine that computes for node 0 and has no HTTP."""

import logging
from pathlib import Path
from tempfile import TemporaryDirectory

from vllm.v1.executor.multiproc_executor import MultiprocExecutor

from server.cache_config import vision_cache_config
from server.context_length import find_context_length
from server.settings import Settings
from server.vllm_args import engine_args, is_cpu, set_engine_environment

logger = logging.getLogger(__name__)


def follow(settings: Settings, model: str) -> int:
    """Run this node's share of the engine's processes until node 0 is gone.

    Returns the exit status: 1, so that a supervisor starts it again. A signal ends it with its own.
    """
    engine = settings.engine
    device = "cpu" if is_cpu(engine) else "cuda"
    with TemporaryDirectory(prefix="qwen3vl-serve-") as run_folder:
        cache = vision_cache_config(
            model, engine, settings.cache, device, handover_dir=Path(run_folder)
        )
        args = engine_args(
            model,
            engine,
            find_context_length(model, engine),
            cache,
            settings.cache.device_bytes,
            settings.server.profile_dir,
        )
        set_engine_environment(engine, args, run_folder)
        config = args.create_engine_config(headless=True)
        logger.info("node %d waits for node 0 at %s", engine.node_rank, engine.master_addr)
        executor = MultiprocExecutor(config, monitor_workers=False)
        try:
            executor.start_worker_monitor(inline=True)
        finally:
            executor.shutdown()
    logger.critical("the engine has stopped; ending this node")
    return 1
