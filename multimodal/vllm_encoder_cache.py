"""The device tier of the vision cache: vLLM's encoder cache, with a budget in bytes.

All items of a model have rows of one width and type, and the model returns each item as a tensor
of its own, so rows counted are bytes counted.
"""

from typing import Self

from vllm.config import VllmConfig
from vllm.v1.core.encoder_cache_manager import EncoderCacheManager
from vllm.v1.request import Request

from multimodal.vllm_cache_scheduler import SchedulerCache, cache_of


class VisionEncoderCacheManager(EncoderCacheManager):
    """vLLM's manager, which also keeps items away from the encoder that it cannot encode."""

    @classmethod
    def create_manager(cls, *, cache_size: int, vllm_config: VllmConfig) -> Self:
        """Args: cache_size: rows of vLLM's own choice, the largest item at least."""
        cache = cache_of(vllm_config)
        budget = vllm_config.ec_manager_config.manager_config.get("device_bytes")
        if budget is not None:
            largest = min(cache_size, vllm_config.model_config.max_model_len)
            cache_size = max(budget // cache.row_bytes, largest)
        return cls(cache_size, cache)

    def __init__(self, cache_size: int, cache: SchedulerCache) -> None:
        super().__init__(cache_size)
        self._cache = cache
        self._num_hits = self._num_evictions = 0
        cache.is_on_device = self.cached.__contains__
        cache.describe_device = self.describe

    def describe(self) -> dict[str, int]:
        row_bytes = self._cache.row_bytes
        return {
            "hits": self._num_hits,
            "evictions": self._num_evictions,
            "num_bytes": (self.cache_size - self.num_free_slots) * row_bytes,
            "max_bytes": self.cache_size * row_bytes,
        }

    def check_and_update_cache(self, request: Request, input_id: int) -> bool:
        is_cached = super().check_and_update_cache(request, input_id)
        if is_cached:
            self._num_hits += self._cache.on_device_hit(request, input_id)
        return is_cached

    def can_allocate(
        self,
        request: Request,
        input_id: int,
        encoder_compute_budget: int,
        num_embeds_to_schedule: int,
    ) -> bool:
        if not self._cache.can_allocate(request, input_id):
            return False  # evicted a moment ago; it will be fetched before the next step
        num_freed = len(self.freed)
        fits = super().can_allocate(
            request, input_id, encoder_compute_budget, num_embeds_to_schedule
        )
        self._num_evictions += len(self.freed) - num_freed
        return fits
