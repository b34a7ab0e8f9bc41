"""Our models as one rank of several would build them, on the meta device and without the others.

    python -m tests.engine.sharded_on_meta CASE

CASE is {"size", "layout", "rank"} as JSON; the last line of stdout is the bytes of its parameters:
{"total", "vision", "experts"}. It replaces parts of torch.distributed and of vLLM, so it needs a
process of its own.
"""

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import torch.fx.experimental._config
from torch.testing._internal.distributed.fake_pg import FakeStore

from demo.embedded import EMBEDDED_CHECKPOINT
from model_executor.sizing import published  # before vLLM, which has a package of that name
from tests.parity.published import transformers_config

assert published
_NUM_RANKS = 8
_BASE_COMMUNICATOR = (
    "vllm.distributed.device_communicators.base_device_communicator.DeviceCommunicatorBase"
)


def _fake_the_others(rank: int) -> Any:
    """Process groups that never talk. Returns vLLM's module of groups."""
    torch.distributed.init_process_group(
        "fake", store=FakeStore(), rank=rank, world_size=_NUM_RANKS
    )
    new_group = torch.distributed.new_group
    torch.distributed.new_group = lambda ranks=None, *_, **__: new_group(ranks, backend="fake")
    from vllm.distributed import parallel_state
    from vllm.model_executor.layers.fused_moe.expert_map_manager import ExpertMapManager
    from vllm.platforms import current_platform

    platform: Any = type(current_platform)
    platform.get_device_communicator_cls = classmethod(lambda _: _BASE_COMMUNICATOR)
    make_group = parallel_state.init_model_parallel_group
    parallel_state.init_model_parallel_group = lambda *args, **kwargs: make_group(
        *args, **{**kwargs, "use_message_queue_broadcaster": False}
    )
    # a map of experts is made by `nonzero`, and logged; of both only the length matters here
    ExpertMapManager.get_compressed_map_string = lambda self: ""
    torch.fx.experimental._config.meta_nonzero_assume_all_nonzero = True
    return parallel_state


def _parameter_bytes(case: Mapping[str, Any], folder: Path) -> dict[str, int]:
    transformers_config(case["size"]).save_pretrained(folder)
    parallel_state = _fake_the_others(case["rank"])
    model = _build(folder, case["layout"], case["rank"], parallel_state)
    sizes = {name: p.numel() * p.element_size() for name, p in model.named_parameters()}
    return {
        "total": sum(sizes.values()),
        "vision": sum(size for name, size in sizes.items() if name.startswith("visual.")),
        "experts": sum(size for name, size in sizes.items() if ".experts." in name),
    }


def _build(
    folder: Path, layout: Mapping[str, Any], rank: int, parallel_state: Any
) -> torch.nn.Module:
    from vllm.config import set_current_vllm_config
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader.utils import initialize_model
    from vllm.utils.torch_utils import set_default_torch_dtype

    args = EngineArgs(
        str(folder), enforce_eager=True, kv_cache_memory_bytes=2**30, max_model_len=4096
    )
    config = args.create_engine_config()
    for name, value in layout.items():
        setattr(config.parallel_config, name, value)
    tp, pp = config.parallel_config.tensor_parallel_size, layout["pipeline_parallel_size"]
    with set_current_vllm_config(config):
        parallel_state.init_distributed_environment(
            _NUM_RANKS, rank, local_rank=0, backend="fake", distributed_init_method="env://"
        )
        parallel_state.initialize_model_parallel(tp, pp)
        with set_default_torch_dtype(torch.bfloat16), torch.device("meta"):
            return initialize_model(vllm_config=config)


def main() -> None:
    case = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        for pattern in ("*token*", "*preprocessor*"):
            for file in EMBEDDED_CHECKPOINT.glob(pattern):
                (Path(name) / file.name).symlink_to(file)
        print(json.dumps(_parameter_bytes(case, Path(name))))


if __name__ == "__main__":
    main()
