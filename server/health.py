"""What `/health?details=1` says of a loaded engine."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from operator import attrgetter
from typing import Any

from blake3 import blake3

from server.engine import Engine, WorkerWeights

_DIGEST_BYTES = 16
_RANKS = attrgetter("data_parallel_rank", "pipeline_parallel_rank", "tensor_parallel_rank")


async def describe_engine(engine: Engine, *, is_asleep: bool) -> dict[str, Any]:
    """How the model runs, and checksums of its weights unless the engine is asleep.

    Raises: EngineDead.
    """
    weights = None if is_asleep else await engine.checksum_weights()
    return {
        **asdict(engine.details),
        "is_sleeping": is_asleep,
        "weights": None if weights is None else _describe_weights(weights),
    }


def _describe_weights(workers: Sequence[WorkerWeights]) -> dict[str, Any]:
    """Workers of one stage hold the same of what is not split; `is_consistent` says so."""
    in_order = sorted(workers, key=_RANKS)
    stages: defaultdict[int, set[str]] = defaultdict(set)
    for worker in in_order:
        stages[worker.pipeline_parallel_rank].add(worker.replicated)
    joined = "".join(worker.checksum for worker in in_order)
    return {
        "checksum": blake3(joined.encode()).hexdigest(length=_DIGEST_BYTES),
        "is_consistent": all(len(found) == 1 for found in stages.values()),
        "workers": [asdict(worker) for worker in in_order],
    }
