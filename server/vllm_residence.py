"""Where the model's weights are: on the device, put to sleep, or on their way back."""

import asyncio
from collections.abc import Collection, Sequence
from typing import Any

from vllm.v1.engine.async_llm import AsyncLLM

from server.engine import SleepLevel, SleepPart, WorkerWeights

_PARTS: tuple[SleepPart, ...] = ("weights", "kv_cache")  # vLLM's tags, in the order of waking


class WeightResidence:
    """Sleeps, wakes and sums up the weights, one after the other.

    vLLM empties the prefix cache and its encoder cache, which is the vision cache's device tier,
    when it falls asleep; the other tiers stay.
    """

    def __init__(self, llm: AsyncLLM) -> None:
        self._llm = llm
        self._lock = asyncio.Lock()
        self._asleep: frozenset[SleepPart] = frozenset()
        self._level: SleepLevel = 1
        self._checksums: Sequence[WorkerWeights] | None = None

    async def checksum(self) -> Sequence[WorkerWeights] | None:
        """See `Engine.checksum_weights`. Found once, and again after a sleep."""
        async with self._lock:
            if self._asleep:
                return None
            if self._checksums is None:
                self._checksums = tuple(
                    WorkerWeights(**weights)
                    for workers in await self._ask_all("checksum_weights")
                    for weights in workers
                )
            return self._checksums

    async def _ask_all(self, method: str) -> list[list[dict[str, Any]]]:
        """What the workers of each engine answer; AsyncLLM gives those of the first only."""
        client: Any = self._llm.engine_core
        found: list[list[dict[str, Any]]] = await client.call_utility_all_async(
            "collective_rpc", method, None, (), {}
        )
        return found

    async def sleep(self, level: SleepLevel) -> None:
        async with self._lock:
            self._asleep, self._level = frozenset(_PARTS), level
            self._checksums = None
            await self._llm.sleep(level)

    async def wake_up(self, parts: Collection[SleepPart]) -> bool:
        async with self._lock:
            for part in _PARTS:
                if part in parts and part in self._asleep:
                    await self._llm.wake_up([part])
                    if part == "weights" and self._level == 2:
                        await self._llm.collective_rpc("reload_weights")
                    self._asleep -= {part}
            return not self._asleep
