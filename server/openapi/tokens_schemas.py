"""What `/tokenize` and `/detokenize` answer."""

from server.openapi.answer_schemas import AnswerModel


class TokenizeAnswer(AnswerModel):
    """`token_strs` is null unless it was asked for."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeAnswer(AnswerModel):
    prompt: str
