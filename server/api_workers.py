"""Several processes that take requests for the same engines: started, watched and ended together.

This process starts the engines and takes no requests itself. If one of the others ends, all do.
"""

import asyncio
import logging
import math
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

import uvloop

from server.app import create_app
from server.assembly import load_backend
from server.loading_bar import loading_bar
from server.run_folder import RunFolder
from server.serve import CUT_AFTER_S, bind, serve_app
from server.settings import ServerSettings, Settings
from server.state import ServerState

if TYPE_CHECKING:  # imports vLLM
    from server.vllm_engine import VllmEngine
    from server.vllm_start import EngineClient, EngineSetup

logger = logging.getLogger(__name__)

_ENGINES_DIED = signal.SIGUSR1
_BACKLOG = 2048  # uvicorn's
_WATCH_INTERVAL_S = 1.0


def serve_with_workers(settings: Settings, model: str) -> int:
    """Serve until a signal comes.

    Returns: the exit status: 1 if a process failed.
    """
    from server.vllm_processes import kill_children
    from server.vllm_start import set_up_engine, shared_engines

    grace_s = settings.server.shutdown_timeout_s + CUT_AFTER_S
    with RunFolder() as folder:
        with ThreadPoolExecutor(1) as thread:  # what has used OpenMP cannot be forked from
            setup = thread.submit(set_up_engine, model, settings, folder.path).result()
        workers: list[BaseProcess] = []
        with ExitStack() as ends:
            try:
                # the socket comes second: the engines would inherit it
                with (
                    loading_bar(settings, model, folder.path),
                    shared_engines(setup, settings.server.api_workers) as engines,
                    _listen(settings.server) as listening,
                ):
                    ends.callback(engines.shutdown)
                    ends.callback(_end, workers, grace_s)
                    start = partial(_start_worker, settings, setup, listening)
                    workers += map(start, engines.clients)
            except BaseException:
                kill_children()  # while the engines load, neither they nor the workers can stop
                raise
            if settings.access.api_keys_file is not None:
                signal.signal(signal.SIGHUP, partial(_pass_on, workers))
            _wait_for_an_end(workers, engines.processes())
            return 1


def share(settings: Settings) -> Settings:
    """Of one of the processes: what is limited for all is divided.

    Responses are not kept: the next request may go to another process. What API keys may ask for
    is divided where keys are read, since their file has limits too: `AccessGate`.
    """
    count, media = settings.server.api_workers, settings.media
    total_bytes = max(media.max_total_decoded_bytes // count, media.max_decoded_bytes)
    return settings.model_copy(
        update={
            "server": _share_server(settings.server),
            "media": media.model_copy(
                update={
                    "max_total_decoded_bytes": total_bytes,
                    "max_parallel_fetches": math.ceil(media.max_parallel_fetches / count),
                    "num_workers": math.ceil(media.num_workers / count),
                }
            ),
            "responses": settings.responses.model_copy(update={"store_max_bytes": 0}),
        }
    )


def _share_server(limits: ServerSettings) -> ServerSettings:
    count = limits.api_workers
    return limits.model_copy(
        update={
            "max_concurrent_requests": math.ceil(limits.max_concurrent_requests / count),
            "max_connections": math.ceil(limits.max_connections / count),
            "max_total_body_bytes": max(
                limits.max_total_body_bytes // count, limits.max_body_bytes
            ),
        }
    )


def _listen(settings: ServerSettings) -> socket.socket:
    listening = bind(settings.host, settings.port)
    listening.listen(_BACKLOG)
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if listening.family == socket.AF_INET6 else host
    scheme = "http" if settings.ssl_certfile is None else "https"
    logger.info("Uvicorn running on %s://%s:%d", scheme, shown, port)
    return listening


def _pass_on(workers: Sequence[BaseProcess], number: int, *_: object) -> None:
    for worker in workers:
        if worker.pid is not None and worker.is_alive():
            os.kill(worker.pid, number)


def _wait_for_an_end(workers: Sequence[BaseProcess], engines: Sequence[BaseProcess]) -> None:
    """Until one of the processes ends, which none should."""
    # by their sentinels: those of a killed process are ready before it counts as ended
    ended = wait([process.sentinel for process in (*workers, *engines)])
    if any(engine.sentinel in ended for engine in engines):
        logger.critical("the engine has stopped; ending the server")
        for worker in workers:
            if worker.pid is not None and worker.is_alive():
                os.kill(worker.pid, _ENGINES_DIED)
        _join(workers, CUT_AFTER_S)
    for worker in workers:
        if not worker.is_alive():
            logger.critical("%s has ended with status %s", worker.name, worker.exitcode)


def _end(workers: Sequence[BaseProcess], grace_s: float) -> None:
    for worker in workers:
        worker.terminate()
    _join(workers, grace_s)
    for worker in workers:
        worker.kill()
        worker.join()


def _join(workers: Iterable[BaseProcess], timeout_s: float) -> None:
    end_at = time.monotonic() + timeout_s
    for worker in workers:
        worker.join(max(0.0, end_at - time.monotonic()))


# ---- in one of the processes


def _start_worker(
    settings: Settings, setup: "EngineSetup", listening: socket.socket, client: "EngineClient"
) -> BaseProcess:
    """A fork: it has vLLM imported, and shares its memory."""
    worker = multiprocessing.get_context("fork").Process(
        target=_run_worker, args=(settings, setup, listening, client), name=f"api-{client.index}"
    )
    worker.start()
    return worker


def _run_worker(
    settings: Settings, setup: "EngineSetup", listening: socket.socket, client: "EngineClient"
) -> None:
    sys.exit(uvloop.run(_serve_worker(settings, setup, listening, client)))


async def _serve_worker(
    settings: Settings, setup: "EngineSetup", listening: socket.socket, client: "EngineClient"
) -> int:
    shared = share(settings)
    state = ServerState(shared)
    connect = partial(_connect, setup, client)
    load = partial(load_backend, shared, setup.model, state.metrics, connect)
    watch = asyncio.create_task(_end_with(client.server_pid))
    try:
        app = create_app(state, load)
        return await serve_app(app, state, listening, settings if client.index == 0 else None)
    finally:
        watch.cancel()


async def _connect(setup: "EngineSetup", client: "EngineClient") -> "VllmEngine":
    from server.vllm_start import connect_engine

    engine = await connect_engine(setup, client)
    asyncio.get_running_loop().add_signal_handler(_ENGINES_DIED, engine.declare_dead)
    return engine


async def _end_with(parent: int) -> None:
    """The process that has started this one may be killed."""
    while os.getppid() == parent:
        await asyncio.sleep(_WATCH_INTERVAL_S)
    os.kill(os.getpid(), signal.SIGTERM)
