"""The vision cache as the server sees it: its folders, and what the engines report of it."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Any

from vllm.config import VllmConfig
from vllm.v1.metrics.loggers import StatLoggerBase

from multimodal.known_items import AllKnown, KnownItems
from multimodal.vision_cache import VisionCacheConfig
from server.cache_metrics import CacheMetrics
from server.engine import CacheTier

Report = Mapping[str, Any]  # see `SchedulerCache.take_stats`


class VisionCache:
    """Attributes:
    metrics: of the last reports of all engines.
    on_report: called with the index of an engine and what it reports.
    forward: called with the same, if the engine has told this process; see `ReportExchange`.
    """

    def __init__(self, config: VisionCacheConfig) -> None:
        self.config = config
        self.tiers = config.open_tiers()
        self.known_items = (KnownItems if config.has_encoder else AllKnown)(self.tiers)
        self.metrics = CacheMetrics()
        self.on_report: Callable[[int, Report], None] = lambda engine_index, report: None
        self.forward: Callable[[int, Report], None] = lambda engine_index, report: None

    def make_logger(self, vllm_config: VllmConfig, engine_index: int = 0) -> "_ReportReader":
        return _ReportReader(self, engine_index)

    async def clear(self, tiers: Collection[CacheTier]) -> None:
        """Empty the tiers that are directories, of those that are named."""
        await asyncio.to_thread(self.tiers.clear, tiers)
        self.known_items.forget_all()

    def read(self, engine_index: int, report: Report) -> None:
        self.metrics.update(engine_index, report)
        self.tiers.set_bypassed(self.metrics.bypassed())
        for key in report["needed"]:
            self.known_items.forget(key)
        self.on_report(engine_index, report)


class _ReportReader(StatLoggerBase):
    """vLLM's way to get statistics from an engine's process."""

    def __init__(self, cache: VisionCache, engine_index: int) -> None:
        self._cache = cache
        self._engine_index = engine_index

    def record(self, scheduler_stats: Any, *args: Any, **kwargs: Any) -> None:
        if scheduler_stats is not None and scheduler_stats.ec_connector_stats:
            report = scheduler_stats.ec_connector_stats
            self._cache.read(self._engine_index, report)
            self._cache.forward(self._engine_index, report)

    def log_engine_initialized(self) -> None:
        pass
