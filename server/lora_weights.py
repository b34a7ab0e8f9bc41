"""`adapter_model.safetensors` of a LoRA adapter: every tensor is held against the model.

vLLM itself looks at the last part of a module's name only. A tensor of the wrong shape would fail
in the engine when half of the adapter is in place.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open

from server.engine import AdapterRefused
from server.lora_config import LoraConfig

WEIGHTS_FILE = "adapter_model.safetensors"
Targets = Mapping[str, tuple[int, ...]]
Half = Literal["A", "B"]

_HEADER_BYTES = 16 * 1024**2
_BYTES_PER_WEIGHT = 4
_DTYPES = ("F32", "F16", "BF16")
_MAX_NAME_CHARS = 200
_PREFIX = "base_model.model."
_LORA = re.compile(r"(?P<module>.+)\.lora_(?P<kind>embedding_)?(?P<half>[AB])(?P<end>\.weight)?")
_TOWER = "model.visual."
_EMBEDDING = "embed_tokens"


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    module: str
    half: Half
    is_embedding: bool
    shape: tuple[int, ...]


def max_weight_bytes(targets: Targets, max_rank: int) -> int:
    """The largest file that an adapter of these modules can have."""
    weights = sum(max_rank * sum(shape) for shape in targets.values())
    # peft adds the base model's own embeddings if an adapter changes them
    copies = sum(rows * width for name, (rows, width) in targets.items() if _is_vocabulary(name))
    return (weights + copies) * _BYTES_PER_WEIGHT + _HEADER_BYTES


def check_weights(folder: Path, config: LoraConfig, targets: Targets) -> bool:
    """Whether the adapter changes the vision tower or its mergers.

    Args:
        targets: names of modules in the checkpoint, and the shapes of their weights.
    Raises: AdapterRefused for a damaged file, and for tensors that do not fit the model.
    """
    try:
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
            tensors = list(_read_tensors(file, targets))
            _check_pairs(tensors, config, targets)
            for tensor in tensors:
                if not torch.isfinite(file.get_tensor(tensor.name)).all():
                    raise _refused(f"{_short(tensor.name)} has values that are not finite")
    except (SafetensorError, OSError) as error:
        raise _refused("it is damaged") from error
    return any(tensor.module.startswith(_TOWER) for tensor in tensors)


def _read_tensors(file: Any, targets: Targets) -> Iterator[_Tensor]:
    for name in file.keys():  # noqa: SIM118 - it is no mapping
        entry = file.get_slice(name)
        shape = tuple(entry.get_shape())
        module = name.removeprefix(_PREFIX)
        if module.endswith(".base_layer.weight"):
            module = module.removesuffix(".base_layer.weight")
            if not _is_vocabulary(module) or targets.get(module) != shape:
                raise _refused(f"{_short(name)} is not the model's own")
            continue
        match = _LORA.fullmatch(module)
        # embeddings are parameters, all others weights of modules
        if match is None or bool(match["kind"]) == bool(match["end"]) or module == name:
            raise _refused(f"{_short(name)} is not a LoRA weight of peft's")
        if entry.get_dtype() not in _DTYPES:
            raise _refused(f"{_short(name)} is of type {entry.get_dtype()}, not {_DTYPES}")
        half: Half = "A" if match["half"] == "A" else "B"
        yield _Tensor(name, match["module"], half, bool(match["kind"]), shape)


def _check_pairs(tensors: list[_Tensor], config: LoraConfig, targets: Targets) -> None:
    if not tensors:
        raise _refused("it holds no weights")
    found = {(tensor.module, tensor.half): tensor for tensor in tensors}
    for tensor in tensors:
        module = tensor.module
        if module not in targets:
            raise _refused(
                f"target module {_short(module)} is not one of those that adapters may change here"
            )
        if (module, "B" if tensor.half == "A" else "A") not in found:
            raise _refused(f"{_short(tensor.name)} is without its other half")
        expected = _shape_of(tensor, config.rank_of(module), targets[module])
        if tensor.shape != expected:
            raise _refused(
                f"{_short(tensor.name)} has shape {list(tensor.shape)[:8]}; of this model and "
                f"rank it is {list(expected)}"
            )


def _shape_of(tensor: _Tensor, rank: int, weight: tuple[int, ...]) -> tuple[int, int]:
    """(rank, in) or (out, rank); an embedding takes the vocabulary in."""
    out_size, in_size = weight
    if tensor.module.endswith(_EMBEDDING):
        if not tensor.is_embedding:
            raise _refused(f"{_short(tensor.name)} is not how peft adapts embeddings")
        out_size, in_size = in_size, out_size
    elif tensor.is_embedding:
        raise _refused(f"{_short(tensor.name)}: there is no such embedding")
    return (rank, in_size) if tensor.half == "A" else (out_size, rank)


def _is_vocabulary(module: str) -> bool:
    return module.rpartition(".")[2] in (_EMBEDDING, "lm_head")


def _short(name: str) -> str:
    return f"`{name[:_MAX_NAME_CHARS]}`"


def _refused(message: str) -> AdapterRefused:
    return AdapterRefused(f"{WEIGHTS_FILE}: {message}")
