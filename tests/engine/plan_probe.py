"""A real start, measured from inside: `python -m tests.engine.plan_probe CASE`.

CASE has the keys that `main` reads, as JSON. The last line of stdout is what the workers found, by
rank, and the engine's KV cache.
"""

import json
import os
import sys
from typing import Any


def main() -> None:
    case: dict[str, Any] = json.loads(sys.argv[1])
    if case["layout"].get("tensor_parallel_size", 1) == 1:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    else:
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(
            str(core) for core in sorted(os.sched_getaffinity(0))[:2]
        )
    from vllm import LLM

    llm = LLM(
        case["model"],
        dtype="bfloat16",
        enforce_eager=True,
        load_format=case.get("load_format", "auto"),
        max_model_len=case["max_model_len"],
        max_num_seqs=4,
        max_num_batched_tokens=case["max_num_batched_tokens"],
        kv_cache_memory_bytes=case["kv_cache_bytes"],
        mm_processor_cache_gb=0,
        worker_extension_cls="tests.engine.plan_probe_worker.PlanProbe",
        **case["layout"],
    )
    cache = llm.llm_engine.vllm_config.cache_config
    found = {
        "num_blocks": cache.num_gpu_blocks,
        "block_tokens": cache.block_size,
        "ranks": llm.collective_rpc("measured"),
        "language_peaks": llm.collective_rpc(
            "language_peak", args=(case["max_num_batched_tokens"],)
        ),
        "image_peaks": llm.collective_rpc("vision_peak", args=(*case["grid"], False)),
        "video_peaks": llm.collective_rpc("vision_peak", args=(*case["grid"], True)),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
