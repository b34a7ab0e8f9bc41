"""The worker's side of the vision cache: fills vLLM's encoder cache, and stores what it encodes."""

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from vllm.distributed.ec_transfer.ec_connector.base import ECConnectorWorkerMetadata
from vllm.distributed.parallel_state import get_tensor_model_parallel_rank
from vllm.platforms import current_platform

from multimodal.vision_tiers import VisionTiers
from multimodal.vision_worker import encode_batch, encode_clock, encode_patches
from multimodal.vllm_cache_scheduler import StepLoads

EncodeCall = tuple[str, int, int, bytes]  # key, grid (h, w), uint8 patches one after another

_REPORT_INTERVAL_S = 0.25
_OUR_KEY = re.compile(r"[0-9a-f]{64}")  # stock vLLM puts a LoRA's name before it


@dataclass
class WorkerReport(ECConnectorWorkerMetadata):
    """What one worker has done. The counts of its tiers are since the start."""

    pid: int
    encoded_bytes: int
    encoded_seconds: float
    counts: Mapping[str, Mapping[str, int]]
    num_dropped: int

    def aggregate(self, other: "ECConnectorWorkerMetadata") -> Self:
        """All ranks encode the same; the first one stores it."""
        return self


class WorkerCache:
    """Only the first tensor-parallel rank stores: all have the same embeddings."""

    def __init__(self, tiers: VisionTiers) -> None:
        self._tiers = tiers
        self._stores = get_tensor_model_parallel_rank() == 0
        self._report_at = 0.0

    def load(self, encoder_cache: dict[str, torch.Tensor], loads: StepLoads) -> None:
        for key, embedding in loads.embeddings.items():
            encoder_cache[key] = embedding.to(current_platform.device_type)
        for key, item in loads.patches.items():
            encoder_cache[key] = encode_patches(item.patches, item.grid, item.lora_int_id)
            self.store(key, encoder_cache[key])

    @torch.inference_mode()
    def encode(self, items: Sequence[EncodeCall]) -> list[str]:
        """Encode items of one kind at once, for the tiers alone.

        Returns: keys that were not queued for the tiers: too much is being written.
        """
        patches = torch.frombuffer(bytearray().join(item[3] for item in items), dtype=torch.uint8)
        grids = [(h, w) for _, h, w, _ in items]
        embeddings = encode_batch(patches.view(sum(h * w for h, w in grids), -1), grids)
        stored = [
            (item[0], self.store(item[0], embedding))
            for item, embedding in zip(items, embeddings, strict=True)
        ]
        return [key for key, is_queued in stored if not is_queued]

    def store(self, key: str, embedding: torch.Tensor) -> bool:
        """The tiers are written in the background, from a copy if the embedding is on a GPU.

        Returns: whether the embedding was queued, or nobody need do so here.
        """
        if not self._stores or not _OUR_KEY.fullmatch(key):
            return True
        if embedding.device.type == "cpu":
            return self._tiers.store(key, embedding)
        copy = torch.empty(embedding.shape, dtype=embedding.dtype, pin_memory=True)
        copy.copy_(embedding, non_blocking=True)
        copied: Any = torch.Event("cuda")
        copied.record()

        def wait() -> torch.Tensor:
            copied.synchronize()
            return copy

        return self._tiers.store(key, wait, num_bytes=copy.nbytes)

    def report(self) -> WorkerReport | None:
        """After each step; None if there is nothing new to say."""
        num_bytes, seconds = encode_clock.take()
        now = time.monotonic()
        if not num_bytes and now < self._report_at:
            return None
        self._report_at = now + _REPORT_INTERVAL_S
        known = self._tiers.num_bytes()
        counts = {
            name: {**asdict(counts), "num_bytes": known[name]}
            for name, counts in self._tiers.counts().items()
        }
        return WorkerReport(os.getpid(), num_bytes, seconds, counts, self._tiers.num_dropped)
