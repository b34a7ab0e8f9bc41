"""What is told of a request while it is handled, if somebody traces it; `otlp_traces` does."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal, Protocol

from starlette.types import Scope

from server.engine import EngineRequest, EngineTimes

if TYPE_CHECKING:  # both import this
    from server.answer import Usage
    from server.choice import FinishReason

Stage = Literal["media.fetch", "media.decode"]
ObserveTimes = Callable[[str, EngineTimes], None]


class RequestTrace(Protocol):
    """One request.

    Attributes:
        observe_times: told of each of its engine requests, by id; None: nobody wants to know.
    """

    @property
    def observe_times(self) -> ObserveTimes | None: ...

    def stage(self, stage: Stage) -> AbstractContextManager[None]:
        """A block that is one step of the request."""
        ...

    def observe_start(
        self, model: str, answer_id: str, requests: Sequence[EngineRequest], *, streams: bool
    ) -> None:
        """Its prompt is made, and the engine is about to get its requests."""
        ...

    def observe_first_output(self, seconds: float) -> None:
        """Args: seconds: since the request came."""
        ...

    def observe_finish(self, reason: "FinishReason") -> None:
        """One of its choices has ended."""
        ...

    def observe_usage(self, usage: "Usage") -> None: ...

    def observe_end(self, outcome: str, status: int, code: str | None) -> None:
        """Args: code: of the error that it ended with."""
        ...


class Tracing(Protocol):
    """Traces requests until it is shut down."""

    def request(self, scope: Scope) -> AbstractContextManager[RequestTrace]: ...

    async def shutdown(self) -> None: ...


class _Untraced:
    observe_times: ObserveTimes | None = None

    def stage(self, stage: Stage) -> AbstractContextManager[None]:
        return nullcontext()

    def observe_start(
        self, model: str, answer_id: str, requests: Sequence[EngineRequest], *, streams: bool
    ) -> None:
        pass

    def observe_first_output(self, seconds: float) -> None:
        pass

    def observe_finish(self, reason: "FinishReason") -> None:
        pass

    def observe_usage(self, usage: "Usage") -> None:
        pass

    def observe_end(self, outcome: str, status: int, code: str | None) -> None:
        pass


UNTRACED: RequestTrace = _Untraced()
_current: ContextVar[RequestTrace] = ContextVar("request_trace", default=UNTRACED)


def current_trace() -> RequestTrace:
    """Of the request that the caller runs for."""
    return _current.get()


@contextmanager
def traced(tracing: Tracing | None, scope: Scope) -> Iterator[None]:
    """A block that handles a request. Args: tracing: None: nothing is traced."""
    if tracing is None:
        yield
        return
    with tracing.request(scope) as trace:
        token = _current.set(trace)
        try:
            yield
        finally:
            _current.reset(token)
