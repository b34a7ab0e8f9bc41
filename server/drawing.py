"""The fields of a body that say how tokens are drawn; chat and plain completions share them."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StringConstraints, WithJsonSchema, model_validator

from server.body import BodyModel
from server.openapi.rule_schemas import needs, with_rules
from server.refused_fields import RefusedFields

MAX_CHOICES = 16
MAX_STOP_STRINGS = 16
MAX_STOP_CHARS = 256
MAX_STOP_TOKENS = 64
MAX_LOGPROBS = 20
MAX_LOGIT_BIAS_ENTRIES = 1024
_INT31 = 2**31 - 1  # the engine has `top_k` and priorities in 32 bits
_INT64 = 2**63

StopString = Annotated[str, StringConstraints(min_length=1, max_length=MAX_STOP_CHARS)]
StopList = Annotated[list[StopString], Field(max_length=MAX_STOP_STRINGS)]
_LOGIT_BIAS = {
    "type": "object",
    "propertyNames": {"pattern": "^[0-9]{1,9}$"},
    "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
    "maxProperties": MAX_LOGIT_BIAS_ENTRIES,
}
LogitBias = Annotated[Any, WithJsonSchema(_LOGIT_BIAS)]
STREAM_RULE = needs("stream")


def _check_stop(value: object) -> object:
    strings = [value] if isinstance(value, str) else value
    if strings is None or not isinstance(strings, list):
        return value  # its type is checked next
    if len(strings) > MAX_STOP_STRINGS:
        raise ValueError(f"at most {MAX_STOP_STRINGS} stop strings, not {len(strings)}")
    if not all(isinstance(s, str) and 1 <= len(s) <= MAX_STOP_CHARS for s in strings):
        raise ValueError(f"stop strings must have 1 to {MAX_STOP_CHARS} characters")
    return strings


def _check_logit_bias(value: object) -> object:
    if not isinstance(value, dict):
        return value  # its type is checked next
    if len(value) > MAX_LOGIT_BIAS_ENTRIES:
        raise ValueError(f"at most {MAX_LOGIT_BIAS_ENTRIES} entries, not {len(value)}")
    if not all(k.isascii() and k.isdigit() and len(k) <= 9 for k in value):
        raise ValueError("keys must be token ids")
    if not all(_is_bias(bias) for bias in value.values()):
        raise ValueError("values must be numbers from -100 to 100")
    return value


def _is_bias(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -100 <= value <= 100


class StreamOptions(BodyModel):
    """`include_obfuscation` is accepted and has no effect: nothing is padded here."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class Drawing(RefusedFields):
    """`None` means: the checkpoint's default (see `server.sampling`)."""

    model_config = with_rules(stream_options=STREAM_RULE)

    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, le=_INT31, description="-1 and 0: all tokens")
    min_p: float | None = Field(default=None, ge=0, le=1)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=2)
    seed: int | None = Field(default=None, ge=-_INT64, lt=_INT64)
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    stop: Annotated[
        list[str] | None,
        BeforeValidator(_check_stop, json_schema_input_type=StopString | StopList | None),
    ] = Field(default=None, description="a single string becomes a list")
    stop_token_ids: list[Annotated[int, Field(ge=0, le=_INT31)]] | None = Field(
        default=None, max_length=MAX_STOP_TOKENS
    )
    include_stop_str_in_output: bool | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    min_tokens: int | None = Field(default=None, ge=0)
    ignore_eos: bool | None = None
    logit_bias: Annotated[
        dict[str, float] | None,
        BeforeValidator(_check_logit_bias, json_schema_input_type=LogitBias | None),
    ] = None
    priority: int | None = Field(
        default=None,
        ge=-_INT31,
        le=_INT31,
        description="lower numbers are served first, among the requests of one API key",
    )

    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _check_stream_options(self) -> "Drawing":
        if self.stream_options is not None and not self.stream:
            raise ValueError("`stream_options` needs `stream`: true")
        return self

    def given_drawing(self) -> dict[str, Any]:
        """The fields of drawing that the body gives, for that of another API."""
        return {
            name: getattr(self, name)
            for name in Drawing.model_fields
            if name in self.model_fields_set
        }

    @property
    def token_limit(self) -> int | None:
        """The most tokens of one answer, as far as the request says."""
        return self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        """None: none; k: the drawn token and the k most likely ones."""
        return None

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def includes_continuous_usage(self) -> bool:
        """Whether every chunk of a stream tells the usage so far."""
        options = self.stream_options
        return self.includes_usage and bool(options and options.continuous_usage_stats)
