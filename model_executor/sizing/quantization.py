"""How many bytes a quantised linear layer takes: its weights in few bits, and its scales."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

_FP8_SCALE_BYTES = 4  # float32
_GROUP_SCALE_BYTES = 2  # in the model's dtype


@dataclass(frozen=True, slots=True)
class Quantization:
    """One format for all linear layers but the ignored ones.

    Attributes:
        method: vLLM's name of it.
        bits: of one weight.
        block: (out, in) weights that share a scale; 0 stands for all along that side.
        scale_bytes: of one scale.
        has_zeros: whether each scale has a zero point, of `bits`.
        ignored: names of modules that are left alone, with all below them; `re:` begins a pattern.
    """

    method: str
    bits: int
    block: tuple[int, int]
    scale_bytes: int
    has_zeros: bool = False
    ignored: tuple[str, ...] = ()

    @property
    def must_divide(self) -> int:
        """A rank's share of a layer must be a multiple of it: vLLM splits no block of scales."""
        return max(*self.block, 1)

    def covers(self, module: str) -> bool:
        """Args: module: in the hub's naming, such as `model.language_model.layers.0.mlp.gate`."""
        return not any(_is_named(entry, module) for entry in self.ignored)

    def num_bytes(self, out_size: int, in_size: int) -> int:
        """Of one (out, in) matrix: out * in * bits / 8, and for every block its scale (and zero).

        Blocks at the edges are whole ones.
        """
        rows = ceil(out_size / (self.block[0] or out_size))
        columns = ceil(in_size / (self.block[1] or in_size))
        zeros = rows * columns * self.bits // 8 if self.has_zeros else 0
        return out_size * in_size * self.bits // 8 + rows * columns * self.scale_bytes + zeros


def _is_named(entry: str, module: str) -> bool:
    if entry.startswith("re:"):
        return re.match(entry[3:], module) is not None
    return f".{entry}." in f".{module}."


def read_quantization(config: Mapping[str, Any] | None) -> Quantization | None:
    """Args: config: `quantization_config` of a checkpoint; None if it has none.

    Raises: ValueError for a format whose sizes are not known here.
    """
    if config is None:
        return None
    method = config.get("quant_method")
    if method == "fp8":
        return _fp8(config)
    if method in ("awq", "gptq"):
        return _grouped(config)
    if method == "compressed-tensors":
        return _compressed_tensors(config)
    raise ValueError(
        f"sizes of quant_method {method!r} are not known; fp8, compressed-tensors, awq and gptq are"
    )


def _fp8(config: Mapping[str, Any]) -> Quantization:
    block = config.get("weight_block_size") or (0, 0)
    ignored = config.get("ignored_layers") or config.get("modules_to_not_convert") or ()
    return Quantization("fp8", 8, (block[0], block[1]), _FP8_SCALE_BYTES, ignored=tuple(ignored))


def _grouped(config: Mapping[str, Any]) -> Quantization:
    """AWQ and GPTQ: groups along the input side; the vision tower is left alone."""
    ignored = ("lm_head", *(config.get("modules_to_not_convert") or ("visual", "mlp.gate")))
    return Quantization(
        method=config["quant_method"],
        bits=int(config["bits"]),
        block=(1, max(int(config["group_size"]), 0)),
        scale_bytes=_GROUP_SCALE_BYTES,
        has_zeros=True,
        ignored=ignored,
    )


def _compressed_tensors(config: Mapping[str, Any]) -> Quantization:
    """Its first group of layers stands for all: a checkpoint of mixed formats is refused."""
    groups = list(config.get("config_groups", {}).values())
    if len({str(group.get("weights")) for group in groups}) != 1:
        raise ValueError("compressed-tensors with several formats of weights is not known here")
    weights = groups[0]["weights"]
    blocks = {
        "tensor": (0, 0),
        "channel": (1, 0),
        "group": (1, weights.get("group_size") or 0),
        "block": tuple(weights.get("block_structure") or (0, 0)),
    }
    strategy = weights.get("strategy")
    if strategy not in blocks:
        raise ValueError(f"compressed-tensors' strategy {strategy!r} is not known here")
    return Quantization(
        method="compressed-tensors",
        bits=weights["num_bits"],
        block=blocks[strategy],
        scale_bytes=_FP8_SCALE_BYTES if strategy != "group" else _GROUP_SCALE_BYTES,
        has_zeros=not weights.get("symmetric", True),
        ignored=tuple(config.get("ignore") or ()),
    )
