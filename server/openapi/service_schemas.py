"""What `/v1/models`, `/health`, `/ready`, `/version` and the endpoints of profiles answer."""

from typing import Literal

from server.openapi.answer_schemas import AnswerModel
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


class Health(AnswerModel):
    """`implementation` is the Python class of the model; null while it is loading."""

    status: Literal["ok", "loading"]
    implementation: str | None


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
