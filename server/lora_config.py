"""`adapter_config.json` of a LoRA adapter: what of peft's settings is understood, and what is not.

peft has many variants of LoRA that change what the weights mean. A field that would is refused.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    StringConstraints,
    ValidationError,
)

from server.engine import AdapterRefused

CONFIG_FILE = "adapter_config.json"
MAX_CONFIG_BYTES = 1024**2
_MAX_PATTERNS = 4096

# peft takes the keys for regular expressions. Those of plain names match in no time.
Pattern = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.]{1,200}$")]
_no_null = BeforeValidator(lambda value: {} if value is None else value)


def _check_empty(value: object) -> object:
    if value:
        raise ValueError("is not supported")
    return value


Unsupported = Annotated[Any, AfterValidator(_check_empty)]


class LoraConfig(BaseModel):
    """The fields of peft's LoraConfig that matter; all others say how it was trained."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)

    r: PositiveInt
    lora_alpha: float
    peft_type: Literal["LORA"] = "LORA"
    use_rslora: bool = False
    rank_pattern: Annotated[
        dict[Pattern, PositiveInt], _no_null, Field(max_length=_MAX_PATTERNS)
    ] = {}
    alpha_pattern: Annotated[dict[Pattern, float], _no_null, Field(max_length=_MAX_PATTERNS)] = {}
    bias: Literal["none"] = "none"
    # Others, PiSSA for example, are changes to weights that no longer are the base model's.
    init_lora_weights: bool | Literal["gaussian", "eva", "orthogonal", "mica", "lora_ga"] | None = (
        True
    )
    use_dora: Unsupported = False
    use_qalora: Unsupported = False
    use_bdlora: Unsupported = None
    lora_bias: Unsupported = False
    fan_in_fan_out: Unsupported = False
    modules_to_save: Unsupported = None
    layer_replication: Unsupported = None
    alora_invocation_tokens: Unsupported = None
    trainable_token_indices: Unsupported = None
    target_parameters: Unsupported = None

    def rank_of(self, module: str) -> int:
        """Args: module: its name in the checkpoint."""
        for pattern, rank in self.rank_pattern.items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                return rank
        return self.r

    @property
    def max_rank(self) -> int:
        return max(self.r, *self.rank_pattern.values(), 1)

    def encode(self) -> bytes:
        """As a file for the engine, with the fields that it reads and no others."""
        names = {"peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"}
        fields = {**self.model_dump(include=names), "bias": "none", "target_modules": []}
        return json.dumps(fields, sort_keys=True).encode()


def parse_config(data: bytes, max_lora_rank: int) -> LoraConfig:
    """Raises: AdapterRefused."""
    try:
        config = LoraConfig.model_validate_json(data)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
        name = ".".join(str(part)[:64] for part in fault["loc"][:1]) or "it"
        message = fault["msg"].removeprefix("Value error, ")
        raise AdapterRefused(f"{CONFIG_FILE}: `{name}`: {message}") from error
    if config.max_rank > max_lora_rank:
        raise AdapterRefused(
            f"{CONFIG_FILE}: rank {config.max_rank} exceeds `engine.max_lora_rank` "
            f"({max_lora_rank})"
        )
    return config


def write_config(config: LoraConfig, folder: Path) -> bytes:
    """Returns: what was written."""
    encoded = config.encode()
    (folder / CONFIG_FILE).write_bytes(encoded)
    return encoded
