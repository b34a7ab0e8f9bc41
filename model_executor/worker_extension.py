"""Methods added to vLLM's worker (`worker_extension_cls`), called through `collective_rpc`."""

import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from threading import Thread
from typing import Any

import psutil
from vllm.distributed import get_pp_group, get_tensor_model_parallel_rank
from vllm.distributed.ec_transfer import get_ec_transfer

from model_executor.node_watch import watch_nodes
from model_executor.speculative_sampling import repair_expansion
from model_executor.weight_checksum import checksum_weights
from multimodal.vision_worker import register_encoder
from multimodal.vllm_cache_worker import EncodeCall

_WATCH_INTERVAL_S = 1.0


class WorkerExtension:
    """Mixed into the worker class by vLLM."""

    model_runner: Any
    parallel_config: Any

    def end_with_server(self, host: str, pid: int) -> None:
        """End this process when the server's process is gone, however that came about.

        vLLM's engine notices an orderly end only. On another node that is the process which has
        started this one; with Ray, Ray ends it.
        """
        if self.parallel_config.node_rank:
            pid = os.getppid()
        elif socket.gethostname() != host:
            return
        server = psutil.Process(pid)
        Thread(target=_end_after, args=(server,), name="server-watch", daemon=True).start()

    def end_with_nodes(self) -> None:
        """End this process when another node of the engine is gone; all ranks call it at once.

        vLLM waits for messages of a node for ever, and for a step of it for five minutes.
        """
        if self.parallel_config.nnodes_within_dp > 1:
            watch_nodes(self.parallel_config)

    def keep_seeds(self) -> None:
        """Let requests with a seed survive a prefill in several steps on a CPU.

        vLLM draws a token at the end of each step, and turns the request's generator back if the
        prefill is not done. A CPU's generator cannot be turned back: the engine would end. So it is
        taken away for that draw, whose token is dropped.
        """
        runner = self.model_runner
        if runner.device.type != "cpu":
            return
        sample_tokens = runner.sample_tokens

        def sample_without_dropped(grammar_output: Any) -> Any:
            generators = runner.input_batch.generators
            is_dropped = runner.discard_request_mask.np
            kept = {row: generators.pop(row) for row in list(generators) if is_dropped[row]}
            try:
                return sample_tokens(grammar_output)
            finally:
                generators.update(kept)

        runner.sample_tokens = sample_without_dropped

    def repair_speculative_sampling(self) -> None:
        if self.model_runner.device.type == "cpu":
            repair_expansion()

    def make_stage_input(self) -> None:
        """Make the buffers in which a pipeline stage gets what the one before it has computed.

        vLLM makes them in its profiling run, which there is not on a CPU without compilation.
        """
        runner = self.model_runner
        if runner.device.type != "cpu" or get_pp_group().is_first_rank:
            return
        runner.intermediate_tensors = runner.get_model().make_empty_intermediate_tensors(
            batch_size=runner.max_num_tokens,
            dtype=runner.model_config.dtype,
            device=runner.device,
        )

    def checksum_weights(self) -> dict[str, Any]:
        """What of the model this worker holds, and the `WeightChecksum` of that."""
        model = self.model_runner.get_model()
        found = model.loaded_checksum or checksum_weights(model)
        ranks = {
            "data_parallel_rank": self.parallel_config.data_parallel_index,
            "pipeline_parallel_rank": get_pp_group().rank_in_group,
            "tensor_parallel_rank": get_tensor_model_parallel_rank(),
        }
        return ranks | asdict(found)

    def encode_items(self, items: Sequence[EncodeCall]) -> list[str]:
        """For a process that only encodes; see `WorkerCache.encode`."""
        return get_ec_transfer().encode(items)

    def use_vision_graphs(self) -> None:
        """Encode in CUDA graphs, if there are any, also what vLLM's runner does not encode."""
        runner = self.model_runner
        manager = getattr(runner, "encoder_cudagraph_manager", None)
        if manager is None:  # vLLM's newer runner; only the first pipeline stage has an encoder
            encoder = getattr(getattr(runner, "model_state", None), "encoder_runner", None)
            manager = getattr(encoder, "cudagraph_manager", None)
        if manager is not None and manager.is_captured():
            model = runner.get_model()
            # adapters and graphs exclude each other, see `EngineSettings`
            register_encoder(lambda *items: manager.execute(model.encoder_kwargs(*items[:2])))

    def count_parameters(self) -> dict[str, int]:
        """What this process holds of the model, by the names of its parts."""
        parts = self.model_runner.get_model().named_children()
        counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts}
        return {name: count for name, count in counts.items() if count}

    def describe_model(self) -> str:
        """Module and name of the class that really runs, the proof that it is ours."""
        model_class = type(self.model_runner.get_model())
        return f"{model_class.__module__}.{model_class.__qualname__}"

    def describe_lora_targets(self) -> dict[str, tuple[int, ...]]:
        """What adapters may change of this worker's part of the model: see the model's method."""
        targets: dict[str, tuple[int, ...]] = self.model_runner.get_model().describe_lora_targets()
        return targets


def _end_after(server: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        while server.is_running() and server.status() != psutil.STATUS_ZOMBIE:
            time.sleep(_WATCH_INTERVAL_S)
    os._exit(1)
