"""The prompts of `/v1/completions`: no template, no media."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import torch

from multimodal.layout import ExpandedPrompt
from server.errors import InvalidRequest
from server.prepared import PreparedPrompt
from server.sampling import check_context
from server.text_protocol import MAX_PROMPTS, MAX_SEQUENCES, CompletionRequest
from server.thinking import Thinking

if TYPE_CHECKING:
    from server.prompt import PromptRenderer  # imports transformers, which takes seconds


def encode_prompts(
    request: CompletionRequest, renderer: "PromptRenderer", max_model_len: int
) -> list[PreparedPrompt]:
    """Raises: InvalidRequest for too many prompts or choices, a prompt that is too long, and tokens
    that the model does not have."""
    prompts = request.prompts
    if len(prompts) > MAX_PROMPTS:
        raise InvalidRequest(
            f"`prompt` has {len(prompts)} prompts; at most {MAX_PROMPTS}", "invalid_value", "prompt"
        )
    num_choices = len(prompts) * (request.n or 1)
    if num_choices > MAX_SEQUENCES:
        raise InvalidRequest(
            f"`prompt` and `n` make {num_choices} choices; at most {MAX_SEQUENCES}",
            "invalid_value",
            "n",
        )
    encoded = []
    for index, prompt in enumerate(prompts):
        param = f"prompt[{index}]" if len(prompts) > 1 else "prompt"
        token_ids = _encode(prompt, renderer, param)
        check_context(len(token_ids), max_model_len)
        encoded.append(ExpandedPrompt(token_ids, ()))
    return [PreparedPrompt(prompt, _load_nothing, Thinking(enabled=False)) for prompt in encoded]


def _encode(prompt: str | list[int], renderer: "PromptRenderer", param: str) -> tuple[int, ...]:
    if not prompt:
        raise InvalidRequest(f"`{param}` must not be empty", "invalid_value", param)
    if isinstance(prompt, str):
        return renderer.encode_prompt(prompt)
    renderer.check_tokens(prompt, param)
    return tuple(prompt)


async def _load_nothing(keys: Collection[str]) -> Mapping[str, torch.Tensor]:
    return {}
