"""An engine without a model: it plays a script and keeps what it was asked."""

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from pathlib import Path

from server.engine import (
    EngineDead,
    EngineDetails,
    EngineRequest,
    GenerationChunk,
    LoraAdapter,
    ModelInfo,
    WorkerWeights,
)

Step = GenerationChunk | Exception | asyncio.Event

OWN_MODEL = "model_executor.qwen3_vl.model.Qwen3VLForConditionalGeneration"


CLOSE_ID = 999  # the token `</think>`


def make_chunk(text: str, *, finish: str | None = None, **fields) -> GenerationChunk:
    """A chunk with one token per word and per `</think>`, unless `token_ids` are given."""
    fields.setdefault("token_ids", _count_tokens(text))
    return GenerationChunk(text=text, finish_reason=finish, **fields)


def _count_tokens(text: str) -> tuple[int, ...]:
    words = text.replace("</think>", " </think> ").split()
    return tuple(CLOSE_ID if word == "</think>" else n for n, word in enumerate(words))


class FakeEngine:
    """Plays `script` for each request: yields chunks, raises exceptions, waits for events.

    Attributes:
        scripts: one for each further request, instead of `script`.
        requests: what was asked for, in order.
        aborted: ids of the requests whose iterator was closed before the script's end.
        is_dead: `check_health` and profiles raise.
        profiles: what was done about them in turn, `start 50` and `stop`.
        trace_path: file that `stop_profile` writes, after `profile_stop_s`.
        weights: of the workers; None while parts are asleep.
        asleep: the parts.
        sleeps: what was done about that in turn, `sleep 1` and `wake weights`.
        resets: what was forgotten in turn, `prefix` and `device host`.
        is_busy: the prefix cache is in use.
        is_shut_down: `shutdown` was called.
        num_restarts: how often `restart` was.
        restart_failures: raised by `restart`, from the end.
        loras: folders of adapters that are loaded, by number.
        lora_failure: raised by `add_lora`.
    """

    details = EngineDetails(
        device="cpu",
        dtype="float32",
        data_parallel_size=1,
        tensor_parallel_size=1,
        pipeline_parallel_size=1,
        enable_expert_parallel=False,
        speculative_method=None,
        num_speculative_tokens=0,
        vision_cache_namespace="namespace",
    )

    def __init__(self, script: Sequence[Step] = (), **info) -> None:
        self.script = list(script) or [make_chunk("A cat."), make_chunk("", finish="stop")]
        self.scripts: list[Sequence[Step]] = []
        self.requests: list[EngineRequest] = []
        self.aborted: list[str] = []
        self.is_dead = False
        self.profiles: list[str] = []
        self.trace_path: Path | None = None
        self.profile_stop_s = 0.0
        self.weights = [WorkerWeights(0, 0, 0, "all", "common", 4)]
        self.asleep: set[str] = set()
        self.sleeps: list[str] = []
        self.resets: list[str] = []
        self.is_busy = False
        self.is_shut_down = False
        self.num_restarts = 0
        self.restart_failures: list[Exception] = []
        self.has_started = asyncio.Event()
        self.loras: dict[int, Path] = {}
        self.lora_failure: Exception | None = None
        self._info = ModelInfo(
            **{"name": "qwen", "max_model_len": 100, "implementation": OWN_MODEL, **info}
        )

    @property
    def model_info(self) -> ModelInfo:
        return self._info

    async def generate(self, request: EngineRequest) -> AsyncGenerator[GenerationChunk, None]:
        self.requests.append(request)
        self.has_started.set()
        is_done = False
        script = self.scripts.pop(0) if self.scripts else self.script
        try:
            for step in script:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                else:
                    yield step
            is_done = True
        finally:
            if not is_done:
                self.aborted.append(request.request_id)

    async def add_lora(self, adapter: LoraAdapter, folder: Path) -> None:
        await self.check_health()
        if self.lora_failure is not None:
            raise self.lora_failure
        self.loras[adapter.lora_int_id] = folder

    async def remove_lora(self, lora_int_id: int) -> None:
        await self.check_health()
        del self.loras[lora_int_id]

    async def check_health(self) -> None:
        if self.is_dead:
            raise EngineDead

    async def start_profile(self, max_iterations: int) -> None:
        await self.check_health()
        await asyncio.sleep(0)
        self.profiles.append(f"start {max_iterations}")

    async def stop_profile(self) -> None:
        await self.check_health()
        await asyncio.sleep(self.profile_stop_s)
        self.profiles.append("stop")
        if self.trace_path is not None:
            self.trace_path.write_text("{}")

    async def checksum_weights(self) -> list[WorkerWeights] | None:
        await self.check_health()
        return None if self.asleep else self.weights

    async def sleep(self, level: int) -> None:
        await self.check_health()
        self.asleep = {"weights", "kv_cache"}
        self.sleeps.append(f"sleep {level}")

    async def wake_up(self, parts: Collection[str]) -> bool:
        await self.check_health()
        self.asleep -= set(parts)
        self.sleeps.append(f"wake {' '.join(sorted(parts))}")
        return not self.asleep

    async def restart(self) -> None:
        self.num_restarts += 1
        if self.restart_failures:
            raise self.restart_failures.pop()
        self.is_dead = False

    async def reset_prefix_cache(self) -> bool:
        await self.check_health()
        if not self.is_busy:
            self.resets.append("prefix")
        return not self.is_busy

    async def reset_encoder_cache(self, tiers: Collection[str]) -> None:
        await self.check_health()
        await asyncio.sleep(0)
        self.resets.append(" ".join(tiers))

    async def shutdown(self) -> None:
        self.is_shut_down = True
