"""The body of `POST /v1/completions`: text without a chat template."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, Tag, model_validator

from server.body import STR_OR_LIST, Identifier, unsupported
from server.drawing import MAX_LOGPROBS, STREAM_RULE, Drawing
from server.openapi.rule_schemas import with_rules

MAX_PROMPTS = 64
MAX_SEQUENCES = 128  # prompts * n: one request among others, which waits for one place
DEFAULT_MAX_TOKENS = 16  # OpenAI's


def _check_part(value: object) -> object:
    if isinstance(value, str) or type(value) is int:
        return value
    if isinstance(value, list) and all(type(part) is int for part in value):
        return value
    raise ValueError("must be a text, a token id, or a list of token ids")


Text = Annotated[str, Field(json_schema_extra={"minLength": 1})]
Tokens = Annotated[list[int], Field(min_length=1)]
PromptPart = Annotated[
    Any, BeforeValidator(_check_part, json_schema_input_type=Text | int | Tokens)
]


class CompletionRequest(Drawing):
    """`prompt` is a text or its tokens, or several of either; each gets `n` choices."""

    model_config = with_rules(
        stream_options=STREAM_RULE, logprobs={"properties": {"echo": {"enum": [None, False]}}}
    )

    model: Identifier
    prompt: Annotated[
        Annotated[Text, Tag("<str>")]
        | Annotated[list[PromptPart], Field(min_length=1, fail_fast=True), Tag("<list>")],
        STR_OR_LIST,
    ]
    echo: bool | None = None
    logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    user: Identifier | None = None

    best_of: Annotated[Any, unsupported(1)] = None
    prompt_logprobs: Annotated[Any, unsupported()] = None
    suffix: Annotated[Any, unsupported("")] = None

    @model_validator(mode="after")
    def _check_echo(self) -> "CompletionRequest":
        if self.echo and self.logprobs is not None:
            raise ValueError("`echo` with `logprobs` is not supported: prompts have none here")
        if self.echo and len(self.texts) != len(self.prompts):
            raise ValueError("`echo` needs prompts that are text")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """One entry per prompt."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if all(isinstance(part, int) for part in self.prompt):
            return [self.prompt]
        return [part if isinstance(part, str | list) else [part] for part in self.prompt]

    @property
    def texts(self) -> list[str]:
        """The prompts that are text."""
        return [prompt for prompt in self.prompts if isinstance(prompt, str)]

    @property
    def token_limit(self) -> int | None:
        return self.max_tokens or DEFAULT_MAX_TOKENS

    @property
    def num_logprobs(self) -> int | None:
        return self.logprobs
