"""What `/v1/models`, `/health`, `/ready`, `/version`, profiles, sleep and cache resets answer."""

from typing import Literal

from server.engine import CacheTier, SleepLevel, SleepPart
from server.openapi.answer_schemas import AnswerModel, may_be_absent
from server.profiler import Tool
from server.thinking import ModelKind


class ModelCard(AnswerModel):
    """`kind` says whether the checkpoint thinks; `random_weights` that it knows nothing.

    Adapters have a `parent`, and the folder they were loaded from as their `root`.
    """

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None
    max_model_len: int
    kind: ModelKind
    random_weights: bool


class ModelList(AnswerModel):
    object: Literal["list"]
    data: list[ModelCard]


class WorkerChecksums(AnswerModel):
    """`replicated` is of the weights that tensor parallelism does not split."""

    data_parallel_rank: int
    pipeline_parallel_rank: int
    tensor_parallel_rank: int
    checksum: str
    replicated: str
    num_bytes: int


class WeightChecksums(AnswerModel):
    """`is_consistent`: the workers of each pipeline stage agree in what they hold in common."""

    checksum: str
    is_consistent: bool
    workers: list[WorkerChecksums]


class EngineDescription(AnswerModel):
    """`weights` is null while the engine is asleep."""

    device: str
    dtype: str
    data_parallel_size: int
    tensor_parallel_size: int
    pipeline_parallel_size: int
    enable_expert_parallel: bool
    speculative_method: str | None
    num_speculative_tokens: int
    vision_cache_namespace: str
    is_sleeping: bool
    weights: WeightChecksums | None


class Health(AnswerModel):
    """`implementation` is the Python class of the model; null while it is loading. `details` only
    where they are asked for, once it is loaded."""

    status: Literal["ok", "loading", "restarting"]
    implementation: str | None
    details: EngineDescription = may_be_absent()


class Readiness(AnswerModel):
    status: Literal["ready"]


class Versions(AnswerModel):
    """`version` is the server's own; null is a package that is not installed as such."""

    version: str | None
    vllm: str | None


class ChangedAdapter(AnswerModel):
    lora_name: str
    status: Literal["loaded", "unloaded"]


class StartedProfile(AnswerModel):
    tool: Tool


class FinishedProfile(AnswerModel):
    """`files` are names in `directory`, which is on the server's machine."""

    tool: Tool
    files: list[str]
    directory: str


class AsleepEngine(AnswerModel):
    status: Literal["sleeping"]
    level: SleepLevel


class WokenEngine(AnswerModel):
    """`sleeping` if only a part is back; `tags` are the ones that were asked for."""

    status: Literal["awake", "sleeping"]
    tags: list[SleepPart] | None


class ResetCache(AnswerModel):
    success: Literal[True]


class ResetEncoderCache(ResetCache):
    tiers: list[CacheTier]


class Sleepiness(AnswerModel):
    is_sleeping: bool
