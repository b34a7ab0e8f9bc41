"""What vLLM 0.32 gets wrong on a CPU when it draws tokens with speculative decoding."""

import torch
from vllm.v1.sample import rejection_sampler


def repair_expansion() -> None:
    """Give each drafted token the temperature, top-k and top-p of its request.

    vLLM's function calls a kernel on a copy of its output, in int64, and drops the copy: what it
    returns is memory that nobody has written. Answers were drawn at any temperature, and top-k
    ended the engine.
    """
    rejection_sampler.expand_batch_to_tokens = expand_batch_to_tokens


def expand_batch_to_tokens(
    values: torch.Tensor,
    ends: torch.Tensor,
    num_tokens: int,
    replace_from: float = 0,
    replace_to: float = 0,
) -> torch.Tensor:
    """(batch,) -> (num_tokens,): each value as often as its request has tokens.

    Args:
        ends: (batch,) the sums of the numbers of tokens up to and with each request.
        replace_from, replace_to: a value, and the one that stands for it in the output.
    """
    counts = ends.diff(prepend=ends.new_zeros(1))
    expanded = values.repeat_interleave(counts, output_size=num_tokens)
    return expanded.masked_fill_(expanded == replace_from, replace_to)
