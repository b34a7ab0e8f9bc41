"""How tokens are drawn for a request: what it says, else the checkpoint's generation defaults."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from server.drawing import Drawing
from server.engine import SamplingOptions
from server.errors import InvalidRequest

# what a checkpoint's generation_config.json may say about drawing, and the values that do nothing
_NEUTRAL: Mapping[str, float] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
}


def resolve_sampling(
    request: Drawing,
    defaults: Mapping[str, Any],
    max_model_len: int,
) -> SamplingOptions:
    """Everything but the room that the prompt leaves, which `fit_to_context` knows.

    Args:
        defaults: the checkpoint's generation_config.json.
    """
    drawn = {name: _choose(request, defaults, name) for name in _NEUTRAL}
    return SamplingOptions(
        max_tokens=request.token_limit or max_model_len,
        temperature=drawn["temperature"],
        top_p=drawn["top_p"],
        top_k=max(int(drawn["top_k"]), 0),
        min_p=drawn["min_p"],
        presence_penalty=drawn["presence_penalty"],
        frequency_penalty=drawn["frequency_penalty"],
        repetition_penalty=drawn["repetition_penalty"],
        seed=request.seed,
        stop_token_ids=tuple(request.stop_token_ids or ()),
        min_tokens=request.min_tokens or 0,
        ignore_eos=bool(request.ignore_eos),
        logit_bias={int(token): bias for token, bias in (request.logit_bias or {}).items()},
        num_logprobs=request.num_logprobs,
    )


def sample_choice(sampling: SamplingOptions, index: int) -> SamplingOptions:
    """The options of one of several answers: each has its own random numbers, as in vLLM."""
    if sampling.seed is None or index == 0:
        return sampling
    return replace(sampling, seed=(sampling.seed + index + 2**63) % 2**64 - 2**63)


def check_context(num_prompt_tokens: int, max_model_len: int) -> None:
    """Raises: InvalidRequest if the prompt leaves no room for an answer."""
    if num_prompt_tokens >= max_model_len:
        raise InvalidRequest(
            f"the prompt has {num_prompt_tokens} tokens; "
            f"prompt and answer together may have {max_model_len}",
            "context_length_exceeded",
            "messages",
        )


def fit_to_context(
    sampling: SamplingOptions, num_prompt_tokens: int, max_model_len: int
) -> SamplingOptions:
    """The options with `max_tokens` cut to what the prompt leaves.

    An answer that is cut so says it: its finish_reason is `length`.
    Raises: InvalidRequest if there is no room, or less than `min_tokens`.
    """
    check_context(num_prompt_tokens, max_model_len)
    max_tokens = min(sampling.max_tokens, max_model_len - num_prompt_tokens)
    if sampling.min_tokens > max_tokens:
        raise InvalidRequest(
            f"`min_tokens` is {sampling.min_tokens}, but the answer may have {max_tokens} tokens",
            "invalid_value",
            "min_tokens",
        )
    return replace(sampling, max_tokens=max_tokens)


def _choose(request: Drawing, defaults: Mapping[str, Any], name: str) -> float:
    for value in (getattr(request, name), defaults.get(name)):
        if value is not None:
            return float(value)
    return _NEUTRAL[name]
