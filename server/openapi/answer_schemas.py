"""What the schemas of all answers have in common, and the answer of an error."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class AnswerModel(BaseModel):
    """A JSON object of an answer; it has no other fields. Answers are not made with it: it is for
    the OpenAPI document, and tests hold the answers to it."""

    model_config = ConfigDict(extra="forbid")


def may_be_absent() -> Any:
    """For a field that an answer may lack. A default that is made has no place in a schema."""
    return Field(default_factory=dict)


class ErrorDetail(AnswerModel):
    """`param` points into the body; `code` stays the same, messages may change."""

    message: str
    type: Literal["invalid_request_error", "requests", "tokens", "server_error"]
    param: str | None
    code: str


class ErrorAnswer(AnswerModel):
    error: ErrorDetail
