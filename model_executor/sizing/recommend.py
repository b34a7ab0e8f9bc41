"""Which layout to take: the fewest devices per replica that leave room for the requests."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from model_executor.sizing.device import Device
from model_executor.sizing.estimate import EngineShape, Estimate, estimate
from model_executor.sizing.model_shape import ModelShape
from model_executor.sizing.parallel_layout import ParallelLayout, layout_faults

_NODE_DEVICES = 8  # tensor parallelism stays within one machine
_MAX_DEVICES = 1024


@dataclass(frozen=True, slots=True)
class Demand:
    """Requests at once, over all replicas, and the tokens of one with its answer."""

    concurrency: int
    request_tokens: int


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Attributes:
    best: the layout to take; None if none fits on the devices that there are.
    engine: for `best`, with its share of the requests.
    devices_needed: the fewest devices that hold all requests at once; None if `best` does, or
        if no number up to 1024 does.
    refused: layouts that vLLM would refuse, and why.
    """

    best: Estimate | None
    engine: EngineShape
    devices_needed: int | None
    refused: tuple[tuple[ParallelLayout, str], ...]


def recommend(
    model: ModelShape, device: Device, count: int, engine: EngineShape, demand: Demand
) -> Recommendation:
    """The layout with the fewest devices per replica that holds all requests at once.

    Replicas fill the devices that there are. Where no layout holds all, the one that holds the
    most. Args: engine: its `max_num_seqs` is replaced by each replica's share of the requests.
    """
    refused: list[tuple[ParallelLayout, str]] = []
    best = _best(model, device, count, engine, demand, refused)
    needed = None
    if best is None or best.requests < demand.concurrency:
        needed = _devices_needed(model, device, count, engine, demand)
    shared = engine
    if best is not None:
        shared = _share(engine, best.layout, demand.concurrency)
    return Recommendation(best, shared, needed, tuple(refused))


def _best(
    model: ModelShape,
    device: Device,
    count: int,
    engine: EngineShape,
    demand: Demand,
    refused: list[tuple[ParallelLayout, str]],
) -> Estimate | None:
    best: Estimate | None = None
    for layout in candidate_layouts(model, count):
        faults = layout_faults(model, layout)
        if faults:
            refused.append((layout, faults[0]))
            continue
        shared = _share(engine, layout, demand.concurrency)
        found = estimate(model, layout, device, shared, demand.request_tokens)
        if found.fits and (best is None or found.requests > best.requests):
            best = found
        if found.requests >= demand.concurrency:
            return found
    return best


def _share(engine: EngineShape, layout: ParallelLayout, concurrency: int) -> EngineShape:
    return replace(engine, max_num_seqs=-(-concurrency // layout.data_parallel_size))


def candidate_layouts(model: ModelShape, count: int) -> Iterator[ParallelLayout]:
    """Layouts of up to `count` devices: by devices per replica, tensor parallelism before stages.

    Of a MoE model each comes with whole experts per device first; the tower's weights are in every
    device, because sharing them costs two reductions per block and saves a few hundred megabytes.
    """
    for per_replica in _powers_of_two(count):
        for tp in reversed(list(_powers_of_two(min(per_replica, _NODE_DEVICES)))):
            layout = ParallelLayout(
                tensor_parallel_size=tp,
                pipeline_parallel_size=per_replica // tp,
                data_parallel_size=count // per_replica,
                mm_encoder_tp_mode="data" if tp > 1 else "weights",
            )
            if model.is_moe and layout.num_expert_shards > 1:
                yield replace(layout, enable_expert_parallel=True)
            yield layout


def _powers_of_two(limit: int) -> Iterator[int]:
    size = 1
    while size <= limit:
        yield size
        size *= 2


def _devices_needed(
    model: ModelShape, device: Device, count: int, engine: EngineShape, demand: Demand
) -> int | None:
    for size in _powers_of_two(_MAX_DEVICES):
        if size <= count:
            continue
        best = _best(model, device, size, engine, demand, [])
        if best is not None and best.requests >= demand.concurrency:
            return size
    return None
