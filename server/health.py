"""What `/health?details=1` says of a loaded engine."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from operator import attrgetter
from typing import Any

from blake3 import blake3

from server.engine import Engine, WorkerWeights

_DIGEST_BYTES = 16
_STAGE = attrgetter("pipeline_parallel_rank")


async def describe_engine(engine: Engine, *, is_asleep: bool) -> dict[str, Any]:
    """How the model runs, and checksums of its weights unless the engine is asleep.

    Raises: EngineDead.
    """
    details = engine.details
    weights = None if is_asleep else await engine.checksum_weights()
    return {
        "device": details.device,
        "dtype": details.dtype,
        "tensor_parallel_size": details.tensor_parallel_size,
        "pipeline_parallel_size": details.pipeline_parallel_size,
        "enable_expert_parallel": details.enable_expert_parallel,
        "speculative_method": details.speculative_method,
        "num_speculative_tokens": details.num_speculative_tokens,
        "vision_cache_namespace": details.vision_cache_namespace,
        "is_sleeping": is_asleep,
        "weights": None if weights is None else _describe_weights(weights),
    }


def _describe_weights(workers: Sequence[WorkerWeights]) -> dict[str, Any]:
    """Workers of one stage hold the same of what is not split; `is_consistent` says so."""
    in_order = sorted(workers, key=attrgetter("pipeline_parallel_rank", "tensor_parallel_rank"))
    stages = [{worker.replicated for worker in stage} for _, stage in groupby(in_order, _STAGE)]
    joined = "".join(worker.checksum for worker in in_order)
    return {
        "checksum": blake3(joined.encode()).hexdigest(length=_DIGEST_BYTES),
        "is_consistent": all(len(found) == 1 for found in stages),
        "workers": [asdict(worker) for worker in in_order],
    }
