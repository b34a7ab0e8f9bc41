"""`qwen3vl-serve serve --node-rank N`: a machine that computes for node 0 and has no HTTP."""

import logging

from vllm.v1.executor.multiproc_executor import MultiprocExecutor

from server.run_folder import RunFolder
from server.settings import Settings
from server.vllm_start import set_up_engine

logger = logging.getLogger(__name__)


def follow(settings: Settings, model: str) -> int:
    """Run this node's share of the engine's processes until node 0 is gone.

    Returns the exit status: 1, so that a supervisor starts it again. A signal ends it with its own.
    """
    engine = settings.engine
    with RunFolder() as folder:
        config = set_up_engine(model, settings, folder.path).config
        logger.info("node %d waits for node 0 at %s", engine.node_rank, engine.master_addr)
        executor = MultiprocExecutor(config, monitor_workers=False)
        try:
            executor.start_worker_monitor(inline=True)
        finally:
            executor.shutdown()
    logger.critical("the engine has stopped; ending this node")
    return 1
