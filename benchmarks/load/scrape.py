"""Cache hits as the server's `/metrics` counts them: vLLM's names and ours."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

Samples = Mapping[
    str, float
]  # by name and, behind a colon, the value of the label `tier` or `pixels`
_TIMEOUT = aiohttp.ClientTimeout(total=10)
_TELLING_LABELS = ("tier", "pixels")
_VISION = "qwen3vl_vision_cache"
# what is shown: its hits, and what hits and those make the queries (or the queries as such)
_CACHES: Mapping[str, tuple[str, str, bool]] = {
    "prefix": ("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total", True),
    "processor": ("vllm:mm_cache_hits_total", "vllm:mm_cache_queries_total", True),
    "pixels": (
        "qwen3vl_visual_items_total:known",
        "qwen3vl_visual_items_total:decoded",
        False,
    ),
    **{
        f"vision, {tier}": (f"{_VISION}_hits_total:{tier}", f"{_VISION}_misses_total:{tier}", False)
        for tier in ("device", "host", "disk")
    },
}


@dataclass(frozen=True, slots=True)
class HitCount:
    """Of one cache: tokens for `prefix`, images, frames or items for the others."""

    hits: float
    queries: float

    @property
    def rate(self) -> float:
        return self.hits / self.queries if self.queries else 0.0

    def __add__(self, other: Self) -> "HitCount":
        return HitCount(self.hits + other.hits, self.queries + other.queries)


async def scrape(session: aiohttp.ClientSession, base_url: str) -> Samples:
    """Every counter of the server; empty where there is no `/metrics` or it cannot be read."""
    try:
        async with session.get(f"{base_url}/metrics", timeout=_TIMEOUT) as response:
            text = await response.text() if response.status == 200 else ""
        return read_samples(text)
    except (aiohttp.ClientError, TimeoutError, ValueError, LookupError, ArithmeticError):
        return {}


def cache_counts(before: Samples, after: Samples) -> Mapping[str, HitCount]:
    """What was asked of each cache in between; caches that were not asked are left out."""
    counts = {}
    for name, (hits, others, is_total) in _CACHES.items():
        num_hits = after.get(hits, 0.0) - before.get(hits, 0.0)
        num_others = after.get(others, 0.0) - before.get(others, 0.0)
        count = HitCount(num_hits, num_others if is_total else num_hits + num_others)
        if count.queries > 0 and count.hits >= 0:  # or the server has begun anew
            counts[name] = count
    return counts


def sum_counts(counts: Iterable[Mapping[str, HitCount]]) -> dict[str, HitCount]:
    """By cache; a cache that is not in all of them is in the sum."""
    sums: dict[str, HitCount] = {}
    for found in counts:
        for name, count in found.items():
            sums[name] = sums[name] + count if name in sums else count
    return sums


def read_samples(text: str) -> Samples:
    """Of Prometheus' text format, summed over the labels that tell engines and models apart.

    Raises: ValueError.
    """
    samples: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = [sample.labels[label] for label in _TELLING_LABELS if label in sample.labels]
            name = ":".join([sample.name, *labels])
            samples[name] = samples.get(name, 0.0) + sample.value
    return samples
