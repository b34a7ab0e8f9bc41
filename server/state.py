"""What the process is serving right now, and whether it takes requests."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from prometheus_client import REGISTRY, CollectorRegistry

from multimodal.fair_threads import CURRENT_CLIENT
from multimodal.preprocessor_config import PreprocessorConfig
from server.access.client import Client
from server.encode_queue import EncodeQueue
from server.engine import Engine, EngineDead, SleepLevel
from server.errors import Conflict, NotFound, NotReady, Overloaded
from server.fair_shares import FairShares
from server.held_bytes import BodyBytes
from server.lora_adapters import LoraAdapters
from server.media_fetch import MediaFetcher
from server.metrics import metrics_of
from server.profiler import Profiler
from server.settings import Settings, SettingsError
from server.trace import Tracing

if TYPE_CHECKING:  # both import transformers, which takes seconds
    from multimodal.pipeline import MediaPipeline
    from server.grammar.check import GrammarChecker
    from server.prompt import PromptRenderer

logger = logging.getLogger(__name__)

Life = Literal["loading", "restarting", "ok"]

# why no request is accepted: message and code
_SHUTTING_DOWN = ("the server is shutting down", "shutting_down")
_RESTARTING = ("the engine is being started again", "restarting")
_SLEEPING = ("the engine is asleep until `POST /wake_up`", "sleeping")
_HELD = ("a cache is being emptied", "cache_reset")


@dataclass(frozen=True, slots=True)
class Backend:
    """Everything that answers a request, once the model is loaded."""

    engine: Engine
    renderer: "PromptRenderer"
    pipeline: "MediaPipeline"
    fetcher: MediaFetcher
    grammars: "GrammarChecker"
    adapters: LoraAdapters

    async def close(self) -> None:
        async with AsyncExitStack() as stack:  # one that fails does not keep the others
            stack.push_async_callback(self.adapters.close)
            stack.push_async_callback(self.engine.shutdown)
            stack.push_async_callback(self.pipeline.close)
            stack.push_async_callback(self.fetcher.close)
            stack.push_async_callback(self.grammars.close)


@dataclass(frozen=True, slots=True)
class EncoderBackend:
    """The same of a process that only encodes images and videos, for others."""

    engine: Engine
    queue: EncodeQueue
    preprocessor: PreprocessorConfig
    namespace: str

    async def close(self) -> None:
        await self.queue.close()
        await self.engine.shutdown()


class ServerState:
    """The life of the server: loading -> ready, asleep or restarting -> draining.

    Attributes:
        backend: None while the model is loading.
        load_failed, engine_died: the process should exit.
        is_draining: no further requests are accepted.
        is_restarting: none are until the engine runs again.
        sleep_level: of an engine that sleeps; none are until it is awake again.
        profiler: None unless `server.profile_dir` is set.
        tracing: None unless `observability.otlp_traces_endpoint` is set, and the server listens.
        body_bytes: what all requests hold of bodies and media files.
    """

    def __init__(self, settings: Settings, registry: CollectorRegistry = REGISTRY) -> None:
        self.settings = settings
        self.metrics = metrics_of(registry)
        self.tracing: Tracing | None = None
        profile_dir = settings.server.profile_dir
        self.profiler = None if profile_dir is None else Profiler(profile_dir)
        self.backend: Backend | EncoderBackend | None = None
        self.load_failed = False
        self.engine_died = False
        self.is_draining = False
        self.is_restarting = False
        self.sleep_level: SleepLevel | None = None
        self._is_held = False
        self._end_at: float | None = None  # in the event loop's time
        self._limits: set[asyncio.Timeout] = set()
        limits = settings.server
        self.body_bytes = BodyBytes(limits.max_total_body_bytes, limits.max_body_bytes)
        self._places = FairShares(limits.max_concurrent_requests, least=1)
        self._num_accepted = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    async def load(self, load_backend: Callable[[], Awaitable[Backend | EncoderBackend]]) -> None:
        """Become ready. A failure is logged and kept: `/health` reports it."""
        try:
            self.backend = await load_backend()
        except SettingsError as error:
            self.load_failed = True
            logger.critical("%s", error)
        except Exception:
            self.load_failed = True
            logger.exception("the model cannot be loaded")

    def drain(self, grace_s: float = math.inf) -> None:
        """Refuse further requests; those accepted have `grace_s` seconds from the first call."""
        self.is_draining = True
        self._bound_requests(grace_s)

    @property
    def is_asleep(self) -> bool:
        return self.sleep_level is not None

    def fall_asleep(self, level: SleepLevel, grace_s: float) -> None:
        """Refuse requests until `wake`; those accepted have `grace_s` seconds."""
        self.sleep_level = level
        self._bound_requests(grace_s)

    def wake(self) -> None:
        self.sleep_level = None
        if not self.is_draining:
            self._end_at = None

    @contextmanager
    def restarting(self) -> Iterator[None]:
        """Refuse requests meanwhile. An engine that has slept is awake afterwards."""
        self.is_restarting = True
        try:
            yield
            self.wake()
        finally:
            self.is_restarting = False

    @contextmanager
    def hold(self) -> Iterator[None]:
        """A block in which no request is served, and none is accepted. Raises: Conflict."""
        if self._is_held:
            raise Conflict("another reset is under way", "cache_reset")
        if self._num_accepted:
            raise Conflict(f"{self._num_accepted} requests are being served", "requests_running")
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False

    async def wait_until_idle(self, timeout_s: float) -> None:
        """Until no accepted request is left, or the time is over."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._is_idle.wait(), timeout_s)

    def _bound_requests(self, grace_s: float) -> None:
        if self._end_at is None and math.isfinite(grace_s):
            self._end_at = asyncio.get_running_loop().time() + grace_s
            for limit in self._limits:
                limit.reschedule(self._end_at)

    @asynccontextmanager
    async def until_shutdown(self) -> AsyncIterator[None]:
        """Bound a block by the time left at shutdown or before a sleep.

        Raises: NotReady when it is over.
        """
        limit = asyncio.timeout_at(self._end_at)
        try:
            async with limit:
                self._limits.add(limit)
                try:
                    yield
                finally:
                    self._limits.discard(limit)
        except TimeoutError:
            if not limit.expired():
                raise
            raise NotReady(*(self._refusal or _SHUTTING_DOWN)) from None

    async def close(self) -> None:
        if self.profiler is not None:
            await self.profiler.close()
        if self.backend is not None:
            await self.backend.close()

    def require_backend(self) -> Backend:
        """Raises: NotReady; NotFound in a process that only encodes."""
        backend = self._require_loaded()
        if isinstance(backend, EncoderBackend):
            raise NotFound("this process only encodes images and videos, for others", "encoder")
        return backend

    def require_encoder(self) -> EncoderBackend:
        """Of a process that only encodes. Raises: NotReady."""
        backend = self._require_loaded()
        assert isinstance(backend, EncoderBackend)
        return backend

    def _require_loaded(self) -> Backend | EncoderBackend:
        if self.backend is None:
            raise NotReady("the model is not loaded", "not_ready")
        return self.backend

    @contextmanager
    def accept(self, client: Client) -> Iterator[Backend]:
        """A place among the requests being served. Raises: NotReady, Overloaded, at once."""
        backend = self.require_backend()
        with self.take_place(client):
            yield backend

    @contextmanager
    def take_place(self, client: Client) -> Iterator[None]:
        """One of `max_concurrent_requests`; see `FairShares`. Raises: NotReady, Overloaded."""
        if self._refusal is not None:
            raise NotReady(*self._refusal)
        if not self._places.take(client.id):
            limit = self.settings.server.max_concurrent_requests
            raise Overloaded(
                f"the places for requests ({limit}), or this client's share of them, are taken",
                "overloaded",
            )
        self._num_accepted += 1
        self._is_idle.clear()
        CURRENT_CLIENT.set(client.id)  # in the task of this request
        try:
            yield
        finally:
            self._places.give_back(client.id)
            self._num_accepted -= 1
            if self._num_accepted == 0:
                self._is_idle.set()

    @property
    def _refusal(self) -> tuple[str, str] | None:
        if self.is_draining:
            return _SHUTTING_DOWN
        if self.is_restarting:
            return _RESTARTING
        if self.is_asleep:
            return _SLEEPING
        return _HELD if self._is_held else None

    async def find_life(self) -> Life:
        """Raises: NotReady, EngineDead: this process should end."""
        if self.load_failed:
            raise NotReady("the model cannot be loaded", "load_failed")
        if self.backend is None:
            return "loading"
        if self.is_restarting:
            return "restarting"
        try:
            await self.backend.engine.check_health()
        except EngineDead:
            if self.engine_died or not self.settings.engine.restart_engine:
                raise
            return "restarting"  # in a moment
        return "ok"

    async def check_ready(self) -> None:
        """Raises: NotReady; EngineDead."""
        backend = self._require_loaded()
        if self._refusal is not None:
            raise NotReady(*self._refusal)
        await backend.engine.check_health()
