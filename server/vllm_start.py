"""Starting vLLM's engines: from this process, or beside several that share them."""

import asyncio
import gc
import json
import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from vllm.config import VllmConfig
from vllm.config.logging import LoggingConfig
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.utils import (
    CoreEngineLaunch,
    EngineZmqListeners,
    bind_engine_zmq_listeners,
    launch_core_engines,
)
from vllm.v1.executor import Executor

from multimodal.checkpoint_files import read_checkpoint_json
from multimodal.vision_cache import VisionCacheConfig
from multimodal.vllm_input import use_plain_keys
from server.access.encoder_key import read_encoder_key
from server.cache_config import vision_cache_config
from server.context_length import ContextLength, find_context_length
from server.encoder_client import EncoderClient
from server.engine import ModelInfo
from server.loading_bar import loading_bar
from server.log_setup import logging_config
from server.report_exchange import ReportExchange
from server.run_folder import RunFolder
from server.settings import EngineSettings, Settings, SettingsError
from server.vllm_args import engine_args, is_cpu, num_workers, set_engine_environment
from server.vllm_cache import VisionCache
from server.vllm_death import until_death
from server.vllm_engine import RunningEngines, VllmEngine
from server.vllm_processes import find_processes, find_queues, kill_children

logger = logging.getLogger(__name__)

_KILL_INTERVAL_S = 0.1
_RANDOM_WEIGHTS_KEY = "qwen3vl_serve_random_weights"  # written by demo.random_checkpoint


@dataclass(frozen=True, slots=True)
class EngineSetup:
    """All that is decided before an engine is started.

    Attributes:
        config: vLLM's.
        run_folder: for sockets and what is handed over, on this host.
    """

    model: str
    settings: EngineSettings
    context: ContextLength
    config: VllmConfig
    cache: VisionCacheConfig
    run_folder: Path


@dataclass(frozen=True, slots=True)
class EngineClient:
    """The place of one of several processes that share the engines.

    Attributes:
        addresses: of its sockets, in vLLM's words.
        server_pid: of the process that the engines end with.
    """

    index: int
    count: int
    addresses: Mapping[str, Any]
    server_pid: int


def starts_by_fork(settings: EngineSettings) -> bool:
    """Whether the engine process is a fork of this one, which must then hold no sockets yet."""
    is_local = settings.distributed_executor_backend is None
    return is_cpu(settings) and num_workers(settings) == 1 and is_local


def set_up_engine(model: str, settings: Settings, run_folder: Path) -> EngineSetup:
    """Reads the vision weights. Raises: whatever vLLM raises for settings that it cannot take."""
    engine, cache = settings.engine, settings.cache
    device = "cpu" if is_cpu(engine) else "cuda"
    cache_config = vision_cache_config(model, engine, cache, device, run_folder / "patches")
    context = find_context_length(model, engine)
    args = engine_args(
        model, engine, context, cache_config, cache.device_bytes, settings.server.profile_dir
    )
    args._api_process_count = settings.server.api_workers
    args.logging_config = _logging_config(settings, run_folder)
    set_engine_environment(engine, args, str(run_folder))
    # On a CPU vLLM spawns the engine core, which spawns a worker: each imports vLLM again, which is
    # most of its start-up time. With one worker, the engine core can run it itself (`uni`), and a
    # fork has vLLM imported already. Both are read from the environment.
    if forks := starts_by_fork(engine):
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # lets the `uni` executor stand
    config = args.create_engine_config(
        UsageContext.OPENAI_API_SERVER, headless=bool(engine.node_rank)
    )
    if forks:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"  # vLLM's CPU platform has set `spawn`
        gc.freeze()  # the engine would collect all that it inherits, for 1 s, and copy the pages
    else:  # vLLM would fork where it can, and the engine would hold the server's sockets open
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    return EngineSetup(model, engine, context, config, cache_config, run_folder)


def _logging_config(settings: Settings, run_folder: Path) -> LoggingConfig:
    """The log of vLLM's processes, forked or not; a Ray process may have no such file."""
    server = settings.server
    level = "INFO" if server.log_level == "debug" else server.log_level.upper()
    if settings.engine.distributed_executor_backend == "ray":
        return LoggingConfig(log_level=level)
    path = run_folder / "logging.json"
    path.write_text(json.dumps(logging_config(server.log_level, server.log_format)))
    return LoggingConfig(log_level=level, configure_logging=True, pylogging_config_file=str(path))


async def start_engine(model: str, settings: Settings) -> VllmEngine:
    """Start the engines and wait until they answer.

    Raises: RuntimeError if the model class in use is not ours; whatever vLLM raises for a model or
        settings that it cannot start.
    """
    folder = RunFolder()
    try:
        with loading_bar(settings, model, folder.path):
            setup = await asyncio.to_thread(set_up_engine, model, settings, folder.path)
            return await connect_engine(setup, clean_up=folder.cleanup)
    except BaseException:
        folder.cleanup()
        raise


@dataclass(frozen=True, slots=True)
class SharedEngines:
    """Engines of this process, for others to use. To be kept: vLLM's sockets go with it."""

    clients: Sequence[EngineClient]
    launch: CoreEngineLaunch
    listeners: EngineZmqListeners

    def processes(self) -> list[BaseProcess]:
        """Those without which no request can be answered."""
        manager, coordinator = self.launch.engine_manager, self.launch.coordinator
        return [*manager.processes, *([coordinator.proc] if coordinator else [])]

    def shutdown(self) -> None:
        self.launch.engine_manager.shutdown()
        if self.launch.coordinator:
            self.launch.coordinator.shutdown()
        self.listeners.cleanup()


@contextmanager
def shared_engines(setup: EngineSetup, num_clients: int) -> Iterator[SharedEngines]:
    """Start engines for several processes, which are to be forked within the block.

    At its end, all engines answer. Raises: RuntimeError if one fails.
    """
    listeners = bind_engine_zmq_listeners(setup.config, num_clients)
    executor = Executor.get_class(setup.config)
    with launch_core_engines(setup.config, executor, True, listeners.addresses) as launch:
        coordinator = launch.coordinator
        stats_address = coordinator.get_stats_publish_address() if coordinator else None
        yield SharedEngines(_clients(listeners, stats_address), launch, listeners)


def _clients(listeners: EngineZmqListeners, stats_address: str | None) -> list[EngineClient]:
    pairs = list(zip(listeners.inputs, listeners.outputs, strict=True))
    return [
        EngineClient(
            index,
            len(pairs),
            {
                "input_address": inputs.address,
                "output_address": outputs.address,
                "input_listener": inputs.socket,
                "output_listener": outputs.socket,
                "stats_update_address": stats_address,
            },
            os.getpid(),
        )
        for index, (inputs, outputs) in enumerate(pairs)
    ]


async def connect_engine(
    setup: EngineSetup,
    client: EngineClient | None = None,
    clean_up: Callable[[], None] = lambda: None,
) -> VllmEngine:
    """The engines as seen from this process, when they answer.

    Args:
        client: None if this process is the only one, and starts the engines.
        clean_up: called when the engine is shut down.
    """
    cache = VisionCache(setup.cache)
    shared: dict[str, Any] = {}
    if client is not None:
        exchange = ReportExchange(setup.run_folder, client.index, client.count, cache.read)
        cache.forward, clean_up = exchange.send, exchange.close
        shared = {
            "client_addresses": dict(client.addresses),
            "client_count": client.count,
            "client_index": client.index,
        }
    prepares = client is None or client.index == 0
    server_pid = os.getpid() if client is None else client.server_pid
    launch = partial(_launch, setup, cache, shared, server_pid if prepares else None)
    running = await launch()
    encoder = None
    if setup.settings.encoder_url is not None:
        api_key = read_encoder_key(setup.settings.encoder_key_file)
        encoder = EncoderClient(setup.settings.encoder_url, setup.cache.namespace, api_key=api_key)
    return VllmEngine(running, launch, cache, clean_up, encoder)


async def _launch(
    setup: EngineSetup, cache: VisionCache, shared: Mapping[str, Any], server_pid: int | None
) -> RunningEngines:
    """Start the engines, or connect to those of `shared`, and wait until they answer.

    Args:
        shared: AsyncLLM's arguments.
        server_pid: of the process that they are to end with; None if another process tells them.
    """
    llm = await _start_in_thread(
        partial(
            AsyncLLM.from_vllm_config,
            deepcopy(setup.config),  # vLLM writes into it what it finds out
            stat_loggers=[cache.make_logger],
            **shared,
        )
    )
    # Forked later, they would inherit the clients' connections.
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    try:
        llm._run_output_handler()  # the first request would start it, and its lines have that id
        model_info = await until_death(llm, _prepare(llm, setup, server_pid))
    except BaseException:
        await asyncio.to_thread(llm.shutdown)
        raise
    processes = find_processes(llm)
    return RunningEngines(llm, model_info, processes, find_queues(processes))


async def _prepare(llm: AsyncLLM, setup: EngineSetup, server_pid: int | None) -> ModelInfo:
    settings = setup.settings
    if settings.role != "encoder":
        _check_context(setup, llm.model_config.max_model_len)
    if server_pid is not None:
        await _prepare_workers(llm, settings, server_pid)
    lora_targets = await _prepare_adapters(llm) if settings.enable_lora else {}
    return ModelInfo(
        name=settings.served_model_name or settings.model,
        max_model_len=llm.model_config.max_model_len,
        implementation=await _find_implementation(llm),
        random_weights=_has_random_weights(setup.model, settings.revision),
        lora_targets=lora_targets,
    )


async def _start_in_thread(make: Callable[[], AsyncLLM]) -> AsyncLLM:
    """In a thread of its own: a process forked from a thread that has used OpenMP hangs in it.

    That thread cannot be cancelled; it gives up when the processes that it waits for are killed.
    """
    starting = asyncio.ensure_future(asyncio.to_thread(make))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        while not starting.done():
            kill_children()
            await asyncio.wait((starting,), timeout=_KILL_INTERVAL_S)
        if starting.exception() is None:
            await asyncio.to_thread(starting.result().shutdown)
        raise


def _check_context(setup: EngineSetup, max_model_len: int) -> None:
    """Args: max_model_len: what vLLM has made of it, once it knew the size of the KV cache.

    Raises: SettingsError if the user has asked for more.
    """
    settings, wanted = setup.settings, setup.context.num_tokens
    scaling = "" if settings.rope_scaling == "none" else f", rope_scaling {settings.rope_scaling}"
    if max_model_len == wanted:
        logger.info("context: %d tokens%s; the KV cache holds it", max_model_len, scaling)
        return
    if settings.max_model_len is not None:
        raise SettingsError(
            f"engine.max_model_len: the KV cache holds {max_model_len} tokens, not {wanted}; ask "
            "for less, or for nothing to get as many as fit, or give it more memory "
            "(engine.kv_cache_bytes)"
        )
    logger.warning(
        "context: %d tokens%s, cut from %d: the KV cache holds no more (engine.kv_cache_bytes)",
        max_model_len,
        scaling,
        wanted,
    )


async def _prepare_workers(llm: AsyncLLM, settings: EngineSettings, server_pid: int) -> None:
    await llm.collective_rpc("end_with_server", args=(socket.gethostname(), server_pid))
    await llm.collective_rpc("end_with_nodes")
    await llm.collective_rpc("keep_seeds")
    await llm.collective_rpc("make_stage_input")
    await llm.collective_rpc("repair_speculative_sampling")
    if settings.cudagraph_mm_encoder:
        await llm.collective_rpc("use_vision_graphs")
    counts = (await llm.collective_rpc("count_parameters"))[0]
    logger.info("parameters here: %s", ", ".join(f"{n} {m:,}" for n, m in counts.items()))


async def _prepare_adapters(llm: AsyncLLM) -> dict[str, tuple[int, ...]]:
    """What adapters may change, in all stages of a pipeline."""
    use_plain_keys(llm.input_processor)
    described = await llm.collective_rpc("describe_lora_targets")
    return {name: tuple(shape) for targets in described for name, shape in targets.items()}


async def _find_implementation(llm: AsyncLLM) -> str:
    implementation = str((await llm.collective_rpc("describe_model"))[0])
    if not implementation.startswith("model_executor."):
        raise RuntimeError(
            f"vLLM runs {implementation} instead of this project's model; is the plugin disabled "
            "by VLLM_PLUGINS?"
        )
    return implementation


def _has_random_weights(model: str, revision: str | None) -> bool:
    config = read_checkpoint_json(model, "config.json", revision) or {}
    return bool(config.get(_RANDOM_WEIGHTS_KEY))
