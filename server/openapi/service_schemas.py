"""What `/v1/models`, `/health` and `/ready` answer."""

from typing import Literal

from server.openapi.answer_schemas import AnswerModel
from server.thinking import ModelKind


class ModelCard(AnswerModel):
    """`kind` says whether the checkpoint thinks; `random_weights` that it knows nothing."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
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
