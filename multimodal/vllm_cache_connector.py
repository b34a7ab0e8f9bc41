"""The vision cache as vLLM's encoder-cache connector: hands each call to the side that it is for.

Configured as `ec_consumer`, so that vLLM measures no encoder at start and runs no encode-only
engine. It stores nevertheless: V1 runners call `save_caches` in any role, V2 runners ask
`is_producer` of this object.
"""

import os
from collections.abc import Sequence
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.distributed.ec_transfer.ec_connector.base import (
    ECConnectorBase,
    ECConnectorMetadata,
    ECConnectorRole,
)
from vllm.distributed.ec_transfer.ec_connector.metrics import ECConnectorStats
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.outputs import ECConnectorOutput
from vllm.v1.request import Request

from multimodal.patch_handover import PatchHandover
from multimodal.vision_cache import VisionCacheConfig, running_tiers
from multimodal.vllm_cache_scheduler import SchedulerCache, StepLoads, register_cache
from multimodal.vllm_cache_worker import EncodeCall, WorkerCache, WorkerReport


class VisionCacheStats(ECConnectorStats):
    """`SchedulerCache.take_stats`, as it is."""

    data: dict[str, Any]

    def aggregate(self, other: ECConnectorStats) -> ECConnectorStats:
        """The later one: counts are since the start."""
        return other

    def is_empty(self) -> bool:
        return not self.data


class VisionCacheConnector(ECConnectorBase):
    """One object per role: vLLM makes one for the scheduler and one for each worker."""

    def __init__(self, vllm_config: VllmConfig, role: ECConnectorRole) -> None:
        super().__init__(vllm_config, role)
        assert vllm_config.ec_transfer_config is not None
        config = VisionCacheConfig.from_dict(
            vllm_config.ec_transfer_config.ec_connector_extra_config
        )
        tiers = running_tiers(config)
        if role == ECConnectorRole.SCHEDULER:
            engine_index = vllm_config.parallel_config.data_parallel_index
            handover = PatchHandover(config.handover_dir, engine_index)
            self._scheduler = SchedulerCache(vllm_config, tiers, handover)
            register_cache(vllm_config, self._scheduler)
        else:
            self._worker = WorkerCache(tiers)

    @property
    def is_producer(self) -> bool:
        return True

    # ---- scheduler

    def ensure_cache_available(self, request: Request, num_computed_tokens: int) -> bool:
        return self._scheduler.ensure_available(request, num_computed_tokens)

    def has_cache_item(self, identifier: str) -> bool:
        return self._scheduler.has_fetched(identifier)

    def update_state_after_alloc(self, request: Request, index: int) -> None:
        self._scheduler.on_allocated(request, index)

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> ECConnectorMetadata:
        return self._scheduler.take_loads()

    def update_connector_output(self, connector_output: ECConnectorOutput) -> None:
        report = connector_output.ec_connector_worker_meta
        if not isinstance(report, WorkerReport):
            return
        if report.encoded_bytes:
            self._scheduler.observe_encoding(report.encoded_bytes, report.encoded_seconds)
        if report.pid != os.getpid():
            self._scheduler.on_worker_counts(report.counts, report.num_dropped)

    def take_unavailable_requests(self) -> set[str]:
        return self._scheduler.take_failed()

    def request_finished(self, request: Request) -> tuple[bool, dict[str, Any] | None]:
        return False, self._scheduler.on_finished(request)

    def get_ec_connector_stats(self) -> ECConnectorStats | None:
        if self.role != ECConnectorRole.SCHEDULER:
            return None
        stats = self._scheduler.take_stats()
        return None if stats is None else VisionCacheStats(stats)

    @classmethod
    def build_ec_connector_stats(cls, data: dict[str, Any] | None = None) -> ECConnectorStats:
        """Nothing for vLLM's log: `server.cache_metrics` shows them."""
        return VisionCacheStats({})

    # ---- worker

    def start_load_caches(self, encoder_cache: dict[str, torch.Tensor], **kwargs: Any) -> None:
        loads = self._get_connector_metadata()
        assert isinstance(loads, StepLoads)
        self._worker.load(encoder_cache, loads)

    def save_caches(
        self, encoder_cache: dict[str, torch.Tensor], mm_hash: str, **kwargs: Any
    ) -> None:
        self._worker.store(mm_hash, encoder_cache[mm_hash])

    def encode(self, items: Sequence[EncodeCall]) -> list[str]:
        """Of a process that only encodes: see `WorkerCache.encode`."""
        return self._worker.encode(items)

    def build_connector_worker_meta(self) -> WorkerReport | None:
        return self._worker.report()

    def shutdown(self) -> None:
        if self.role == ECConnectorRole.SCHEDULER:
            self._scheduler.close()
