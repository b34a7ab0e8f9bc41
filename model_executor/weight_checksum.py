"""A checksum of a model's weights as they lie in memory, fast on a GPU.

The bytes of a tensor are taken as 32-bit words. 16,384 words make a chunk, whose sum is that of
each word times a fixed odd number of its place, modulo 2**64: a change of one word always changes
it, any other but for one in 2**32 or less. blake3 over the sums, names and types is the checksum.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from math import ceil
from operator import itemgetter

import torch
from blake3 import blake3
from torch import nn
from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts
from vllm.model_executor.layers.linear import ColumnParallelLinear, RowParallelLinear
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

_CHUNK_WORDS = 1 << 14  # small enough for one core of a CPU, so that no threads have to meet
_CHUNK_BYTES = 4 * _CHUNK_WORDS
_GPU_CHUNKS = 512  # at once; 64 MiB as int64
_SEED = 0x5EED
_DIGEST_BYTES = 16
_SPLIT_MODULES = (ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding, RoutedExperts)


@dataclass(frozen=True, slots=True)
class WeightChecksum:
    """Of one worker. `replicated` covers those weights only that tensor parallelism does not
    split, so it is the same in all workers of a stage."""

    checksum: str
    replicated: str
    num_bytes: int


@torch.inference_mode()
def checksum_weights(model: nn.Module) -> WeightChecksum:
    """Of all parameters, in the order of their names."""
    weights = sorted(model.named_parameters(), key=itemgetter(0))  # tied ones come once
    sums = {name: (weight, _chunk_sums(weight)) for name, weight in weights}
    split = set(_split_names(model))
    return WeightChecksum(
        _digest((name, *found) for name, found in sums.items()),
        _digest((name, *found) for name, found in sums.items() if name not in split),
        sum(weight.nbytes for weight, _ in sums.values()),
    )


def _split_names(model: nn.Module) -> Iterator[str]:
    for prefix, module in model.named_modules():
        if isinstance(module, _SPLIT_MODULES):
            for name, _ in module.named_parameters(recurse=False):
                if name != "bias" or not isinstance(module, RowParallelLinear):
                    yield f"{prefix}.{name}"  # each worker has all of the sum's bias


def _digest(found: Iterable[tuple[str, torch.Tensor, torch.Tensor]]) -> str:
    digest = blake3()
    for name, weight, sums in found:
        digest.update(f"{name} {weight.dtype} {list(weight.shape)}\n".encode())
        digest.update(sums.cpu().numpy().tobytes())
    return digest.hexdigest(length=_DIGEST_BYTES)


def _chunk_sums(weight: torch.Tensor) -> torch.Tensor:
    """(num_chunks,) int64, on the weight's device."""
    by_stride = sorted(range(weight.dim()), key=weight.stride, reverse=True)
    # a transposed weight is read as it lies, which needs no copy
    content = weight.permute(by_stride).contiguous().view(-1).view(torch.uint8)
    num_whole = len(content) // _CHUNK_BYTES * _CHUNK_BYTES
    sums = [_sum_chunks(content[:num_whole])] if num_whole else []
    if num_whole < len(content):
        rest = content.new_zeros(_CHUNK_BYTES)
        rest[: len(content) - num_whole] = content[num_whole:]
        sums.append(_sum_chunks(rest))
    return torch.cat(sums) if sums else content.new_zeros(0, dtype=torch.int64)


def _sum_chunks(content: torch.Tensor) -> torch.Tensor:
    words = content.view(torch.int32).view(-1, _CHUNK_WORDS)
    factors = _factors(content.device)
    num_slabs = len(words) if content.device.type == "cpu" else ceil(len(words) / _GPU_CHUNKS)
    return torch.cat([(slab.long() * factors).sum(dim=1) for slab in words.chunk(num_slabs)])


@cache
def _factors(device: torch.device) -> torch.Tensor:
    """(words of a chunk,) odd numbers, the same everywhere."""
    generator = torch.Generator().manual_seed(_SEED)
    limit = torch.iinfo(torch.int64)
    drawn = torch.randint(limit.min, limit.max, (_CHUNK_WORDS,), generator=generator)
    return (drawn | 1).to(device)
