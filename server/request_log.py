"""What the log knows of the request being handled: its id, and the line written at its end."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from starlette.types import Scope

logger = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499  # nginx's status for a client that went away before the answer
_METHODS = ("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH")


@dataclass(slots=True)
class RequestLog:
    """One request.

    Attributes:
        fields: what its line says besides method, route, status and duration.
        status: of the answer that has begun.
        has_lost_client: nobody is there to read the rest of it.
    """

    request_id: str
    fields: dict[str, Any] = field(default_factory=dict)
    status: int | None = None
    has_lost_client: bool = False
    _started_s: float = field(default_factory=perf_counter)

    def write(self, scope: Scope, error: BaseException | None) -> None:
        """The request's one line. Its path, query and headers stay out: they may hold anything.

        Args: error: what has ended the request, if it is not answered to the end.
        """
        client = scope.get("state", {}).get("client")
        values = {
            "method": scope["method"] if scope["method"] in _METHODS else "other",
            "route": getattr(scope.get("route"), "path", "none"),
            "status": self.status or CLIENT_CLOSED_REQUEST,
            "duration_ms": round((perf_counter() - self._started_s) * 1000, 1),
            "outcome": self._outcome(error),
            "client": getattr(client, "name", None),
        }
        logger.info("request", extra={"fields": {**values, **self.fields}})

    def _outcome(self, error: BaseException | None) -> str:
        is_cut = self.has_lost_client or isinstance(error, asyncio.CancelledError)
        if self.status is None or is_cut:
            return "aborted"
        if error is not None or self.status >= 500:
            return "error"
        return "rejected" if self.status >= 400 else "done"


_current: ContextVar[RequestLog | None] = ContextVar("request_log", default=None)


def current_request_id() -> str | None:
    """Of the request that the caller runs for: in its tasks and `asyncio.to_thread` too."""
    request = _current.get()
    return None if request is None else request.request_id


def add_fields(**fields: Any) -> None:
    """To the line of the request being handled, if there is one: numbers and names of ours."""
    request = _current.get()
    if request is not None:
        request.fields.update(fields)


@contextmanager
def logged(request_id: str, scope: Scope) -> Iterator[RequestLog]:
    """A block that handles a request; the line is written at its end, however it ends."""
    request, error = RequestLog(request_id), None
    token = _current.set(request)
    try:
        yield request
    except BaseException as raised:
        error = raised
        raise
    finally:
        request.write(scope, error)
        _current.reset(token)
