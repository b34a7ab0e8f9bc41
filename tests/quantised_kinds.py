"""The published quantised formats: numbers, tensors, and the `quantization_config` beside them.

A kind is what one tool writes: for every linear that is not on its ignore list, tensors of its own
in place of `weight`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

Tensors = dict[str, torch.Tensor]
Config = dict[str, Any]

GROUP_SIZE = 128
FP8_MAX = 448.0
FP4_MAX = 6.0
_FP4_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
# The order in which AutoAWQ puts eight numbers into 32 bits, lowest bits first.
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True, slots=True)
class Encoded:
    """One linear: its tensors by the end of their names, and the weight that they stand for."""

    tensors: Tensors
    dequantised: torch.Tensor


@dataclass(frozen=True, slots=True)
class Kind:
    """What one tool writes.

    Attributes:
        config: ignored module names (hub) -> `quantization_config`.
        encode: weight (out, in) -> its quantised form.
        has_fused_experts: experts stay fused, (experts, in, out), scales named after them.
        is_vision_quantised: the linears of the vision tower are quantised too.
    """

    config: Callable[[Sequence[str]], Config]
    encode: Callable[[torch.Tensor], Encoded]
    has_fused_experts: bool = False
    is_vision_quantised: bool = False


# ---- numbers


def _fp8_block(weight: torch.Tensor) -> Encoded:
    """One scale for 128 x 128 numbers; leading dimensions stay."""
    rows, columns = weight.shape[-2:]
    blocks = weight.unflatten(-1, (columns // 128, 128)).unflatten(-3, (rows // 128, 128))
    scale = (blocks.abs().amax(dim=(-3, -1)) / FP8_MAX).bfloat16()
    spread = scale.float()[..., :, None, :, None]
    encoded = (blocks / spread).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
    dequantised = (encoded.float() * spread).reshape(weight.shape)
    return Encoded(
        {"weight": encoded.reshape(weight.shape), "weight_scale_inv": scale}, dequantised
    )


def _fp8_channel(weight: torch.Tensor) -> Encoded:
    scale = (weight.abs().amax(dim=1, keepdim=True) / FP8_MAX).bfloat16()
    encoded = (weight / scale.float()).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
    return Encoded({"weight": encoded, "weight_scale": scale}, encoded.float() * scale.float())


def _int8_channel(weight: torch.Tensor) -> Encoded:
    scale = (weight.abs().amax(dim=1, keepdim=True) / 127).bfloat16()
    encoded = (weight / scale.float()).round().clamp(-128, 127).to(torch.int8)
    return Encoded({"weight": encoded, "weight_scale": scale}, encoded.float() * scale.float())


def _groups(weight: torch.Tensor) -> torch.Tensor:
    """(out, in) -> (out, groups, numbers in a group)."""
    return weight.unflatten(1, (-1, GROUP_SIZE))


def _int4_symmetric(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns: numbers of 0..15 around 8 (out, in), scales (out, groups), dequantised (out, in)."""
    groups = _groups(weight)
    scale = (groups.abs().amax(dim=2) / 7.5).bfloat16().half()
    numbers = (groups / scale.float()[..., None]).round().clamp(-8, 7) + 8
    dequantised = (numbers - 8) * scale.float()[..., None]
    return numbers.flatten(1).int(), scale, dequantised.flatten(1)


def _int4_asymmetric(
    weight: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns: numbers (out, in), scales and zero points (out, groups), dequantised (out, in)."""
    groups = _groups(weight)
    low, high = groups.amin(dim=2), groups.amax(dim=2)
    scale = ((high - low) / 15).bfloat16().half()
    zero = (-low / scale.float()).round().clamp(0, 15)
    numbers = ((groups / scale.float()[..., None]).round() + zero[..., None]).clamp(0, 15)
    dequantised = (numbers - zero[..., None]) * scale.float()[..., None]
    return numbers.flatten(1).int(), scale, zero.int(), dequantised.flatten(1)


def _pack(numbers: torch.Tensor, dim: int, order: Sequence[int] = tuple(range(8))) -> torch.Tensor:
    """Eight neighbours along `dim`, 4 bits each -> one int32, the first of `order` lowest."""
    eights = numbers.movedim(dim, -1).unflatten(-1, (-1, 8))[..., list(order)].long()
    packed = (eights << torch.arange(0, 32, 4)).sum(-1)
    return packed.to(torch.int32).movedim(-1, dim).contiguous()


def _awq(weight: torch.Tensor) -> Encoded:
    numbers, scale, zero, dequantised = _int4_asymmetric(weight)
    tensors = {
        "qweight": _pack(numbers.T, 1, _AWQ_ORDER),
        "qzeros": _pack(zero.T, 1, _AWQ_ORDER),
        "scales": scale.T.contiguous(),
    }
    return Encoded(tensors, dequantised)


def _gptq(weight: torch.Tensor) -> Encoded:
    """The format's first version: zero points are stored one too low."""
    numbers, scale, dequantised = _int4_symmetric(weight)
    tensors = {
        "qweight": _pack(numbers.T, 0),
        "qzeros": _pack(torch.full_like(scale.T, 7).int(), 1),
        "scales": scale.T.contiguous(),
        "g_idx": (torch.arange(weight.shape[1]) // GROUP_SIZE).int(),
    }
    return Encoded(tensors, dequantised)


def _packed_int4(weight: torch.Tensor) -> Encoded:
    numbers, scale, dequantised = _int4_symmetric(weight)
    tensors = {
        "weight_packed": _pack(numbers, 1),
        "weight_scale": scale.bfloat16(),
        "weight_shape": torch.tensor(weight.shape),
    }
    return Encoded(tensors, dequantised)


def _packed_int4_asymmetric(weight: torch.Tensor) -> Encoded:
    numbers, scale, zero, dequantised = _int4_asymmetric(weight)
    tensors = {
        "weight_packed": _pack(numbers, 1),
        "weight_scale": scale.bfloat16(),
        "weight_zero_point": _pack(zero, 0),
        "weight_shape": torch.tensor(weight.shape),
    }
    return Encoded(tensors, dequantised)


def _nvfp4(weight: torch.Tensor, global_scale: float = 2048.0) -> Encoded:
    """Sixteen 4-bit floats share an FP8 scale, and all of those one float32.

    Tensors that vLLM fuses must share the global scale, so it is the same everywhere here.
    """
    groups = weight.unflatten(1, (-1, 16))
    scale = (groups.abs().amax(dim=2) / FP4_MAX * global_scale).to(torch.float8_e4m3fn)
    spread = scale.float()[..., None] / global_scale
    values = torch.tensor(_FP4_VALUES)
    codes = ((groups / spread).abs()[..., None] - values).abs().argmin(-1)
    dequantised = (values[codes] * groups.sign() * spread).flatten(1)
    codes = (codes + 8 * (groups < 0)).flatten(1).to(torch.uint8)
    tensors = {
        "weight_packed": codes[:, ::2] | codes[:, 1::2] << 4,
        "weight_scale": scale,
        "weight_global_scale": torch.tensor([global_scale]),
        "input_global_scale": torch.tensor([64.0]),
    }
    return Encoded(tensors, dequantised)


# ---- configurations


def _fp8_config(ignored: Sequence[str], key: str = "modules_to_not_convert") -> Config:
    return {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
        key: list(ignored),
    }


def _awq_config(ignored: Sequence[str]) -> Config:
    """Parts of names; `mlp.gate` would also be a part of a dense layer's `mlp.gate_proj`."""
    has_routers = any(name.endswith("mlp.gate") for name in ignored)
    return {
        "quant_method": "awq",
        "bits": 4,
        "group_size": GROUP_SIZE,
        "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": ["visual", "mlp.gate"] if has_routers else ["visual"],
    }


def _gptq_config(ignored: Sequence[str], dynamic: Mapping[str, Any] | None) -> Config:
    return {
        "quant_method": "gptq",
        "checkpoint_format": "gptq",
        "bits": 4,
        "group_size": GROUP_SIZE,
        "desc_act": False,
        "sym": True,
        "lm_head": False,
        "pack_dtype": "int32",
        "dynamic": dynamic,
    }


def _compressed_config(
    ignored: Sequence[str],
    format: str,
    weights: Config,
    activations: Config | None = None,
    patterns: Sequence[str] | None = None,
) -> Config:
    """`patterns` instead of the names that the tool writes by itself."""
    group = {
        "format": format,
        "targets": ["Linear"],
        "weights": _compressed_numbers(**weights),
        "input_activations": activations and _compressed_numbers(**activations),
        "output_activations": None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": format,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": list(ignored if patterns is None else patterns),
        "kv_cache_scheme": None,
        "sparsity_config": {},
        "transform_config": {},
    }


def _compressed_numbers(**chosen: Any) -> Config:
    return {
        "actorder": None,
        "block_structure": None,
        "dynamic": False,
        "group_size": None,
        "num_bits": 8,
        "observer": None,
        "observer_kwargs": {},
        "strategy": "channel",
        "symmetric": True,
        "type": "int",
    } | chosen


_PATTERNS = ("lm_head", "re:.*visual.*", "re:.*mlp.gate$")
_INT4 = {"num_bits": 4, "strategy": "group", "group_size": GROUP_SIZE}
_DYNAMIC_INT8 = {"dynamic": True, "strategy": "token"}
_NVFP4 = {
    "num_bits": 4,
    "type": "float",
    "strategy": "tensor_group",
    "group_size": 16,
    "scale_dtype": "torch.float8_e4m3fn",
}

KINDS = {
    "fp8-block": Kind(_fp8_config, _fp8_block, has_fused_experts=True),
    "fp8-block-per-expert": Kind(partial(_fp8_config, key="ignored_layers"), _fp8_block),
    "awq": Kind(_awq_config, _awq),
    "gptq": Kind(partial(_gptq_config, dynamic={"-:.*visual.*": {}, "-:.*mlp.gate$": {}}), _gptq),
    "gptq-no-rules": Kind(partial(_gptq_config, dynamic=None), _gptq),
    "int4": Kind(partial(_compressed_config, format="pack-quantized", weights=_INT4), _packed_int4),
    "int4-asymmetric": Kind(
        partial(
            _compressed_config,
            format="pack-quantized",
            weights=_INT4 | {"symmetric": False},
            patterns=_PATTERNS,
        ),
        _packed_int4_asymmetric,
    ),
    "w8a8": Kind(
        partial(
            _compressed_config,
            format="int-quantized",
            weights={},
            activations=_DYNAMIC_INT8,
        ),
        _int8_channel,
    ),
    "w8a8-vision": Kind(
        partial(
            _compressed_config,
            format="int-quantized",
            weights={},
            activations=_DYNAMIC_INT8,
        ),
        _int8_channel,
        is_vision_quantised=True,
    ),
    "fp8-dynamic": Kind(
        partial(
            _compressed_config,
            format="float-quantized",
            weights={"type": "float"},
            activations={"type": "float", "dynamic": True, "strategy": "token"},
        ),
        _fp8_channel,
    ),
    "nvfp4": Kind(
        partial(
            _compressed_config,
            format="nvfp4-pack-quantized",
            weights=_NVFP4,
            activations=_NVFP4 | {"dynamic": "local"},
        ),
        _nvfp4,
    ),
}
