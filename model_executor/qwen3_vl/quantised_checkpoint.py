"""Loading quantised checkpoints: which tensors the model takes, and that it got all of them.

How a linear's tensors are called depends on its quantisation, so the layout is read off the built
model. vLLM's own loader leaves a parameter that no tensor came for as it is, and drops scales that
it has no place for; both give a model that answers nonsense.
"""

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts
from vllm.model_executor.layers.quantization.kv_cache import BaseKVCacheMethod
from vllm.model_executor.models.utils import (
    AutoWeightsLoader,
    PPMissingLayer,
    StageMissingLayer,
)

from model_executor.qwen3_vl.checkpoint import HUB_TO_VLLM, Weights, oriented_weights, split_experts
from model_executor.qwen3_vl.vision import VisionPatchEmbed

# What tools write beside the weights, and vLLM drops if the model has no use for it: zero biases
# (GPTQ), scales and zero points of a quantised KV cache.
_DROPPED = (".bias", *(f".{x}_{kind}" for x in "qkv" for kind in ("scale", "zero_point")))


@dataclass(frozen=True, slots=True)
class Source:
    """The tensors that make up one parameter, under vLLM's names before q, k and v are joined.

    Attributes:
        choices: each is complete by itself: experts one by one, or fused.
    """

    choices: tuple[frozenset[str], ...]

    @property
    def names(self) -> frozenset[str]:
        return frozenset().union(*self.choices)

    def missing(self, given: Set[str]) -> list[str]:
        """What the choice that is nearest to complete lacks."""
        return min((sorted(choice - given) for choice in self.choices), key=len)


def load_quantised(model: nn.Module, config: Any, quant_config: Any, weights: Weights) -> set[str]:
    """Load a checkpoint whose linears are quantised; fused experts may lie in either orientation.

    Returns: the names of the loaded parameters.
    Raises: ValueError naming the tensor that is unknown, does not fit or is missing.
    """
    sources = dict(_sources(model, quant_config.packed_modules_mapping))
    record = _Record(model, sources.values(), quant_config)
    weights = oriented_weights(config, weights)
    if model.num_redundant_experts:
        weights = split_experts(weights)
    try:
        loaded: set[str] = AutoWeightsLoader(model).load_weights(
            record.passing(weights), mapper=HUB_TO_VLLM
        )
    except torch.OutOfMemoryError:
        raise
    except (AssertionError, AttributeError, IndexError, RuntimeError) as error:
        raise ValueError(f"{record.last} does not fit into the model: {error}") from error
    missing: list[str] = []
    for parameter, source in sources.items():
        if not _may_be_absent(model, parameter):
            missing += source.missing(record.given) or [parameter] * (parameter not in loaded)
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(
            f"checkpoint lacks {_hub_name(missing[0])}{more}, which its quantization_config "
            f"({quant_config.get_name()}) asks for"
        )
    return loaded


class _Record:
    """The tensors that have passed.

    Attributes:
        given: their names, as vLLM maps them.
        last: the hub's name of the one that is being loaded.
    """

    def __init__(self, model: nn.Module, sources: Iterable[Source], quant_config: Any) -> None:
        self.given: set[str] = set()
        self.last = ""
        self._mapper = (
            HUB_TO_VLLM
            | quant_config.get_cache_scale_mapper()
            | quant_config.get_checkpoint_weight_mapper()
            | AutoWeightsLoader.REMOVE_UNUSED_ROTARY_EMBEDS_MAPPER
        )
        # with duplicates: a tied checkpoint may carry a copy
        self._known = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        self._known.update(*(source.names for source in sources))
        # In another stage of the pipeline; or told from what does not belong by the module itself.
        self._not_ours = tuple(
            f"{name}."
            for name, module in model.named_modules()
            if isinstance(module, (PPMissingLayer, StageMissingLayer, VisionPatchEmbed))
        )

    def passing(self, weights: Weights) -> Iterator[tuple[str, torch.Tensor]]:
        """Raises: ValueError naming a tensor that the model has no place for."""
        for hub_name, tensor in weights:
            self.last = hub_name
            name = self._mapper.map_name(hub_name)
            if name is not None and name not in self._known:
                if not name.endswith(_DROPPED) and not name.startswith(self._not_ours):
                    raise ValueError(
                        f"checkpoint holds {hub_name}, for which the model has no place under its "
                        "quantization_config"
                    )
            elif name is not None:
                self.given.add(name)
            yield hub_name, tensor


def _sources(model: nn.Module, packed: Mapping[str, list[str]]) -> Iterator[tuple[str, Source]]:
    """Args: packed: vLLM's name of a joined linear -> the linears in it."""
    for parameter, _ in model.named_parameters():
        path, _, leaf = parameter.rpartition(".")
        parent, _, module_name = path.rpartition(".")
        module = model.get_submodule(path)
        own = frozenset({parameter})
        if isinstance(module, RoutedExperts):
            yield parameter, _expert_source(module, parent, leaf)
        elif isinstance(module, VisionPatchEmbed):  # folds them
            yield parameter, Source((frozenset({f"{path}.proj.weight", f"{path}.proj.bias"}),))
        elif module_name in packed:
            parts = frozenset(f"{parent}.{part}.{leaf}" for part in packed[module_name])
            yield parameter, Source((parts, own))
        else:
            yield parameter, Source((own,))


def _expert_source(experts: RoutedExperts, path: str, leaf: str) -> Source:
    """`leaf`: w13_weight, w2_weight_scale and the like; w13 is gate and up, w2 is down."""
    joined, _, kind = leaf.partition("_")
    is_down = joined == "w2"
    parts = ("down_proj",) if is_down else ("gate_proj", "up_proj")
    places = None if experts.expert_map is None else experts.expert_map.tolist()
    single = frozenset(
        f"{path}.{expert}.{part}.{kind}"
        for expert in range(experts.moe_config.num_logical_experts)
        if places is None or places[expert] >= 0  # vLLM may leave out those of other ranks
        for part in parts
    )
    if not kind.startswith("weight"):
        return Source((single,))
    fused = "down_proj" if is_down else "gate_up_proj"
    return Source((single, frozenset({f"{path}.{fused}{kind.removeprefix('weight')}"})))


def _may_be_absent(model: nn.Module, parameter: str) -> bool:
    """Whether vLLM has a value of its own for the parameter."""
    path, _, leaf = parameter.rpartition(".")
    method = getattr(model.get_submodule(path), "quant_method", None)
    return (
        isinstance(method, BaseKVCacheMethod)
        or model.get_parameter(parameter).numel() == 0
        or leaf == "input_scale_ub"  # made from the configuration
        or leaf in ("w13_bias", "w2_bias")  # GPTQ's experts
        or (leaf.endswith("input_global_scale") and getattr(method, "use_a16", False))
    )


def _hub_name(name: str) -> str:
    for hub, ours in HUB_TO_VLLM.orig_to_new_prefix.items():
        if ours is not None and name.startswith(ours):
            return hub + name.removeprefix(ours)
    return name
