"""The time that a request with its answer may take."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

from starlette.datastructures import Headers

from server.errors import DeadlineExceeded, InvalidRequest

TIMEOUT_HEADER = "x-request-timeout"
_SECONDS = re.compile(r"\d{1,9}(\.\d{1,9})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Deadline:
    """`ends_at` is in the event loop's time."""

    timeout_s: float
    ends_at: float

    @classmethod
    def begin(cls, headers: Headers, max_s: float) -> Self:
        """From now on: `max_s`, or less if the client asks for less.

        Raises: InvalidRequest.
        """
        timeout_s = max_s
        given = headers.get(TIMEOUT_HEADER)
        if given is not None:
            if not _SECONDS.fullmatch(given) or float(given) == 0:
                message = f"the header `{TIMEOUT_HEADER}` must be a number of seconds above 0"
                raise InvalidRequest(message, "invalid_value")
            timeout_s = min(max_s, float(given))
        return cls(timeout_s, asyncio.get_running_loop().time() + timeout_s)

    @asynccontextmanager
    async def limit(self) -> AsyncIterator[None]:
        """Bound a block by the time that is left. Raises: DeadlineExceeded when it is over."""
        limit = asyncio.timeout_at(self.ends_at)
        try:
            async with limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise DeadlineExceeded(
                f"the request was not answered within {self.timeout_s:g} s", "request_timeout"
            ) from None
