"""`qwen3vl-serve serve`: from settings to a listening server, and to a clean end."""

import asyncio
import logging
import math
import signal
import socket
import ssl
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
import uvloop
from fastapi import FastAPI

from demo.embedded import EMBEDDED_CHECKPOINT
from server.access.binding import check_binding
from server.access.encoder_key import read_encoder_key
from server.access.key_ring import KeyRing, load_keys
from server.access.tls import load_certificate
from server.app import create_app
from server.assembly import load_backend
from server.engine import EngineDead
from server.engine_restarts import EngineRestarts
from server.fair_executor import use_fair_threads
from server.http_protocol import BoundedProtocol
from server.log_setup import log_lost_exceptions, set_up_logging
from server.open_files import raise_file_limit
from server.profiler import allow_tracing
from server.run_folder import remove_left_overs
from server.settings import (
    EMBEDDED_MODEL,
    ObservabilitySettings,
    ServerSettings,
    Settings,
    otlp_protocol,
)
from server.start_report import collect_facts, report_start
from server.state import ServerState
from server.tls_protocol import TlsProtocols
from server.trace import Tracing

logger = logging.getLogger(__name__)

_WATCH_INTERVAL_S = 1.0
_LOOK_INTERVAL_S = 0.05
_EXIT_STATUSES = {signal.SIGTERM: 0, signal.SIGINT: 130}
CUT_AFTER_S = 5


def serve(settings: Settings) -> int:
    """Serve until a signal comes.

    Returns: the exit status: 1 if the engine failed.
    Raises: SettingsError for what this platform cannot do.
    """
    set_up_logging(settings.server.log_level, settings.server.log_format)
    warnings.filterwarnings("ignore", module="PIL")  # one line per odd tag of a client's image
    raise_file_limit(settings.server.max_connections)
    # uvicorn passes a signal on when it has shut down; the default action would skip the clean-up.
    for number, status in _EXIT_STATUSES.items():
        signal.signal(number, partial(_exit, status))
    remove_left_overs()
    if settings.engine.node_rank:
        from server.vllm_follower import follow  # imports vLLM

        return follow(settings, _locate_model(settings.engine.model))
    _check_access(settings)
    if settings.observability.otlp_traces_endpoint is not None:
        otlp_protocol()
    host, port = settings.server.host, settings.server.port
    try:
        bind(host, port).close()  # fails before the model is loaded, which can take minutes
    except OSError as error:
        logger.critical("cannot listen on %s port %d: %s", host, port, error.strerror)
        return 2
    from server.vllm_args import check_platform  # imports vLLM

    check_platform(settings.engine)
    model = _locate_model(settings.engine.model)
    if settings.server.api_workers > 1:
        from server.api_workers import serve_with_workers

        return serve_with_workers(settings, model)
    return uvloop.run(_serve(settings, model))


def _check_access(settings: Settings) -> None:
    """What would fail later, when the model is loaded. Raises: SettingsError."""
    check_binding(settings)
    load_certificate(settings.server)
    read_encoder_key(settings.engine.encoder_key_file)
    if settings.access.api_keys_file is not None:
        load_keys(settings.access.api_keys_file)


def _exit(status: int, *_: object) -> None:
    raise SystemExit(status)


def bind(host: str, port: int) -> socket.socket:
    """A socket that does not listen yet. Raises: OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def _locate_model(model: str) -> str:
    return str(EMBEDDED_CHECKPOINT) if model == EMBEDDED_MODEL else model


async def _serve(settings: Settings, model: str) -> int:
    from server.vllm_start import start_engine, starts_by_fork

    if settings.server.profile_dir is not None:
        allow_tracing()
    state = ServerState(settings)
    start = partial(start_engine, model, settings)
    load = partial(load_backend, settings, model, state.metrics, start)
    if starts_by_fork(settings.engine):
        # The engine is forked off before there is a socket that it could inherit.
        try:
            with _cancelled_by_signals() as received:
                await state.load(load)
        except asyncio.CancelledError:
            return received[0]
        if state.load_failed:
            return 1
        app = create_app(state)
    else:
        app = create_app(state, load)
    return await serve_app(app, state, reported=settings)


@contextmanager
def _cancelled_by_signals() -> Iterator[list[int]]:
    """Let the first signal cancel the task that enters this. Yields: the exit status it asks for.

    An exception out of a signal handler would end the event loop at once, whatever is to be undone.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    received: list[int] = []

    def cancel(number: int, frame: FrameType | None) -> None:
        if not received:
            loop.call_soon_threadsafe(task.cancel)
        received.append(_EXIT_STATUSES[signal.Signals(number)])

    handlers = {number: signal.signal(number, cancel) for number in _EXIT_STATUSES}
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


async def serve_app(
    app: FastAPI,
    state: ServerState,
    listening: socket.socket | None = None,
    reported: Settings | None = None,
) -> int:
    """Serve until a signal comes or the engine fails. Returns the exit status.

    Args:
        listening: a socket to take connections from; None: one of the settings' address.
        reported: what to tell of when requests are taken; None: another process does.
    """
    settings = state.settings
    log_lost_exceptions(asyncio.get_running_loop())
    use_fair_threads(asyncio.get_running_loop())
    tls = load_certificate(settings.server)
    config = uvicorn.Config(
        app,
        host=settings.server.host,
        port=settings.server.port,
        log_config=None,  # uvicorn's loggers write as ours do
        access_log=False,  # it would write paths and queries; see `server.request_log`
        # requests that run out of time are told so before their connections are cut
        timeout_graceful_shutdown=math.ceil(settings.server.shutdown_timeout_s) + CUT_AFTER_S,
        server_header=False,
        # h11 bounds the size of request headers, which httptools does not
        http=_make_protocols(settings.server, tls),  # type: ignore[arg-type]
        ws="none",
        reset_contextvars=True,  # else a pipelined request has what the one before it has set
        proxy_headers=False,
    )
    server = _Server(config, state, reported, tls)
    _reload_keys_on_hangup(app.state.key_ring)
    state.tracing = _start_tracing(settings.observability)
    try:
        await server.serve([listening] if listening is not None else None)
    finally:
        if state.tracing is not None:
            await state.tracing.shutdown()
    return 1 if state.load_failed or state.engine_died else 0


def _start_tracing(settings: ObservabilitySettings) -> Tracing | None:
    """Here, and not earlier: its threads would not come along with a fork."""
    if settings.otlp_traces_endpoint is None:
        return None
    from server.otlp_traces import OtlpTracing  # imports OpenTelemetry

    return OtlpTracing(settings.otlp_traces_endpoint, otlp_protocol())


def _make_protocols(limits: ServerSettings, tls: ssl.SSLContext | None) -> Callable[..., Any]:
    if tls is None:
        return partial(BoundedProtocol, limits)
    return TlsProtocols(limits, tls)


def _reload_keys_on_hangup(key_ring: KeyRing | None) -> None:
    if key_ring is None:
        return
    loop, reloads = asyncio.get_running_loop(), set[asyncio.Task[None]]()

    def reload() -> None:
        task = loop.create_task(key_ring.refresh(is_forced=True))
        reloads.add(task)  # the loop itself does not hold it
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)


class _Server(uvicorn.Server):
    """Tells the application when a signal has come; uvicorn does so only when all is over.

    It stops when the engine dies or cannot be loaded, for a supervisor to restart it.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        state: ServerState,
        reported: Settings | None,
        tls: ssl.SSLContext | None,
    ) -> None:
        super().__init__(config)
        self._state = state
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._tasks = {asyncio.create_task(_watch(state, self))}
        if reported is not None:
            self._tasks.add(asyncio.create_task(_report(reported, state, self)))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for task in self._tasks:
            task.cancel()  # with a restart of the engine that is under way
        await asyncio.wait(self._tasks)
        await super().shutdown(sockets)

    def _log_started_message(self, listeners: Sequence[socket.SocketType]) -> None:
        self.config.ssl = self._tls  # for the address: connections bring their own TLS
        super()._log_started_message(listeners)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        grace_s = self._state.settings.server.shutdown_timeout_s
        self._loop.call_soon_threadsafe(self._state.drain, grace_s)
        super().handle_exit(sig, frame)


async def _watch(state: ServerState, server: uvicorn.Server) -> None:
    """Until the server is to stop, which this may ask for."""
    restarts = EngineRestarts(state) if state.settings.engine.restart_engine else None
    while not state.load_failed:
        await asyncio.sleep(_WATCH_INTERVAL_S)
        state.metrics.count_cpu()
        if server.should_exit:
            return  # the engine is being ended on purpose
        if state.backend is None:
            continue
        engine = state.backend.engine
        try:
            await engine.check_health()
        except EngineDead:
            if restarts is not None and await restarts.restart(engine):
                continue
            logger.critical("the engine has stopped; ending the server")
            state.engine_died = True
            break
    server.should_exit = True


async def _report(settings: Settings, state: ServerState, server: uvicorn.Server) -> None:
    """Once requests are taken and can be answered, whichever comes last."""
    while not (server.started and state.backend is not None):
        await asyncio.sleep(_LOOK_INTERVAL_S)
    model = _locate_model(settings.engine.model)
    address = server.servers[0].sockets[0].getsockname()
    collect = partial(collect_facts, settings, model, state.backend, address)
    try:
        report_start(await asyncio.to_thread(collect))
    except Exception:  # nothing depends on it
        logger.exception("there is no report of the start")
