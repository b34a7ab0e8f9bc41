"""The border between HTTP and the engine: plain types, and the `Engine` protocol.

`server.vllm_engine` implements it with vLLM; the tests have a fake one.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import torch

from multimodal.items import PlacedItem

LoadPatches = Callable[[Collection[str]], Awaitable[Mapping[str, torch.Tensor]]]

ItemSource = Literal["prefix", "device", "host", "disk", "encoded"]  # prefix: in the KV cache
SleepLevel = Literal[1, 2]
SleepPart = Literal["weights", "kv_cache"]
CacheTier = Literal["device", "host", "disk"]  # of the vision cache
FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How tokens are drawn; the names are vLLM's. `max_tokens` is resolved before it gets here."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all tokens
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    min_tokens: int = 0
    ignore_eos: bool = False
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    num_logprobs: int | None = None  # None: none; k: the drawn token and the k most likely ones
    structural_tag: str | None = None  # xgrammar's; the answer behind the reasoning obeys it


@dataclass(frozen=True, slots=True)
class LoraAdapter:
    """A LoRA adapter that is loaded.

    Attributes:
        lora_int_id: its number, which no other adapter ever gets.
        name: what requests call it.
        digest: of all that it does.
        has_tower: it changes the vision tower, so that images and videos look different to it.
    """

    lora_int_id: int
    name: str
    digest: str
    has_tower: bool


@dataclass(frozen=True, slots=True)
class EngineTimes:
    """When a request got how far, in seconds of this machine's monotonic clock; 0: not yet."""

    queued_s: float
    scheduled_s: float
    first_token_s: float
    last_token_s: float


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One prompt with its media, expanded: every placeholder token is in `prompt_token_ids`.

    `load_patches` makes the patches of items, by their keys, if the engine needs them after all.
    `starts_in_reasoning`: the prompt ends in an open block; requests of lower `priority` go first
    among those of one client; `tenant`: only requests of the same one share a prefix cache;
    `observe_times`: told at the end of the request, by its id, however that comes about.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    items: tuple[PlacedItem, ...]
    sampling: SamplingOptions
    load_patches: LoadPatches
    starts_in_reasoning: bool = False
    priority: int = 0
    adapter: LoraAdapter | None = None
    tenant: str = ""
    client_id: str = ""
    observe_times: Callable[[str, EngineTimes], None] | None = None


@dataclass(slots=True)  # for each token: frozen ones are made four times slower
class TokenLogprob:
    """A token with its natural-log probability; `top` holds the most likely alternatives.

    A token may hold a part of a character, so its text is given as bytes.
    """

    token_id: int
    token_bytes: bytes
    logprob: float
    top: tuple["TokenLogprob", ...] = ()


@dataclass(slots=True)  # for each token: frozen ones are made four times slower
class GenerationChunk:
    """New output of a request since the chunk before.

    `finish_reason` is set on the last chunk; `error` means that the engine gave up on
    this request (the engine itself lives). `num_cached_tokens` counts prompt tokens served from the
    prefix cache. `item_sources`, on the last chunk, says where each visual item came from.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    num_cached_tokens: int = 0
    item_sources: tuple[ItemSource, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is served. `implementation` is the Python class that the engine instantiated.

    `lora_targets`: names and weights' shapes of the modules that adapters may change, as in the
    checkpoint; empty if the engine takes no adapters.
    """

    name: str
    max_model_len: int
    implementation: str
    random_weights: bool = False
    lora_targets: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EngineDetails:
    """How the model runs. `speculative_method` is None without speculative decoding."""

    device: str
    dtype: str
    data_parallel_size: int
    tensor_parallel_size: int
    pipeline_parallel_size: int
    enable_expert_parallel: bool
    speculative_method: str | None
    num_speculative_tokens: int
    vision_cache_namespace: str


@dataclass(frozen=True, slots=True)
class WorkerWeights:
    """The weights that one worker holds.

    `replicated` is the checksum of those that tensor parallelism does not split.
    """

    data_parallel_rank: int
    pipeline_parallel_rank: int
    tensor_parallel_rank: int
    checksum: str
    replicated: str
    num_bytes: int


class EngineDead(Exception):
    """The engine stopped; it comes back by `Engine.restart` only."""


class AdapterRefused(Exception):
    """A LoRA adapter cannot be used; the message is the client's to read."""


class InvalidSampling(Exception):
    """The engine refuses the sampling options; the message is the client's to read."""


class Engine(Protocol):
    """A running model. All methods are safe to call from several tasks at once."""

    @property
    def model_info(self) -> ModelInfo: ...

    @property
    def details(self) -> EngineDetails: ...

    def generate(self, request: EngineRequest) -> AsyncGenerator[GenerationChunk, None]:
        """Run a request; closing the iterator early aborts it in the engine.

        Raises: InvalidSampling before the first chunk; EngineDead at any time.
        """
        ...

    async def add_lora(self, adapter: LoraAdapter, folder: Path) -> None:
        """Load an adapter from a folder, which it needs for as long as it is there.

        Raises: AdapterRefused, with nothing left of it in the engine; EngineDead.
        """
        ...

    async def remove_lora(self, lora_int_id: int) -> None:
        """Forget an adapter that no request uses. Raises: EngineDead."""
        ...

    async def check_health(self) -> None:
        """Raises: EngineDead."""
        ...

    async def start_profile(self, max_iterations: int) -> None:
        """Record so many of the engine's next steps. Raises: EngineDead."""
        ...

    async def stop_profile(self) -> None:
        """Write the record to the directory given to the engine at start. Raises: EngineDead."""
        ...

    async def checksum_weights(self) -> Sequence[WorkerWeights] | None:
        """Of all workers; None unless they are all awake. Raises: EngineDead."""
        ...

    async def sleep(self, level: SleepLevel) -> None:
        """Give the device's memory back: weights to host memory (1) or dropped (2), the KV cache
        and device embeddings dropped. Requests that are running are aborted. Raises: EngineDead.
        """
        ...

    async def wake_up(self, parts: Collection[SleepPart]) -> bool:
        """Bring these parts back, weights that were dropped from the checkpoint.

        Returns: whether all are there, so that requests can be answered. Raises: EngineDead.
        """
        ...

    async def restart(self) -> None:
        """Start an engine that has died again, with the adapters that it had.

        To be called when no request uses it. Raises: whatever keeps it from starting; EngineDead.
        """
        ...

    async def reset_prefix_cache(self) -> bool:
        """Forget the KV cache of prompts that are done.

        Returns: False if requests use it, and nothing was done. Raises: EngineDead.
        """
        ...

    async def reset_encoder_cache(self, tiers: Collection[CacheTier]) -> None:
        """Forget the embeddings in these tiers; `device` only while no request is running.

        Raises: EngineDead.
        """
        ...

    async def shutdown(self) -> None: ...
