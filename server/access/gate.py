"""The layer that knows who a request is from, and whether it may go on.

It refuses before the body of a request is read.
"""

import math
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.access.allowance import Allowance, Allowances
from server.access.client import Client, ClientLimits, client_id, read_api_key, read_api_keys
from server.access.key_file import KeyEntry, KeySet
from server.access.key_ring import KeyRing
from server.access.operator_paths import METRICS_PATH, is_for_operators, is_open
from server.errors import ClientError, Forbidden, Unauthorized
from server.metrics import Metrics
from server.request_scope import DescribeError
from server.settings import AccessSettings


class AccessGate:
    """ASGI middleware: `request.state.client` of all behind it is a `Client`.

    `request.state.allowance` is what its key may ask for; None without a keys file.

    Args:
        key_ring: None: every client may use everything, and is who its key says.
        num_processes: that share the limits of a key evenly, rounded up.
        describe_errors: by path, for those that do not answer as OpenAI does.
    """

    def __init__(
        self,
        app: ASGIApp,
        key_ring: KeyRing | None,
        settings: AccessSettings,
        metrics: Metrics,
        num_processes: int,
        describe_errors: Mapping[str, DescribeError],
    ) -> None:
        self._app = app
        self._key_ring = key_ring
        self._settings = settings
        self._metrics = metrics
        self._num_processes = num_processes
        self._describe_errors = describe_errors
        self._allowances = Allowances()
        self._keys_seen: KeySet | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["client"], state["allowance"] = Client(), None
        if self._key_ring is None:
            state["client"] = Client(client_id(read_api_key(Headers(scope=scope))))
            await self._app(scope, receive, send)
        elif is_open(scope["path"], scope["query_string"]):
            await self._app(scope, receive, send)
        else:
            state["describe_error"] = self._describe_errors.get(scope["path"])
            await self._serve_key(self._key_ring, scope, receive, send)

    async def _serve_key(
        self, key_ring: KeyRing, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Raises: Unauthorized, Forbidden, RateLimited."""
        keys, state = await key_ring.current(), scope["state"]
        is_operators = is_for_operators(scope["path"], scope["query_string"])
        if scope["path"] == METRICS_PATH and not keys.has_admin:
            await self._app(scope, receive, send)
            return
        is_counted = scope["method"] == "POST" and not is_operators
        try:
            entry, state["client"] = self._identify(keys, Headers(scope=scope))
            if is_operators and keys.has_admin and not entry.is_admin:
                raise Forbidden("this needs an admin key", "admin_key_required")
            if is_counted:
                state["allowance"] = self._find_allowance(keys, entry, state["client"])
                state["allowance"].enter()
        except ClientError as error:
            if is_counted:
                self._metrics.count_rejection(scope["path"], error)
            raise
        try:
            await self._app(scope, receive, send)
        finally:
            if is_counted:
                state["allowance"].leave()

    def _identify(self, keys: KeySet, headers: Headers) -> tuple[KeyEntry, Client]:
        """Raises: Unauthorized."""
        api_keys = read_api_keys(headers)
        if not api_keys:
            raise _unauthorized("an API key is needed: `Authorization: Bearer KEY` or `x-api-key`")
        if len(api_keys) > 1:
            raise _unauthorized("`Authorization` and `x-api-key` have different API keys")
        entry = keys.find(api_keys[0])
        if entry is None:
            raise _unauthorized("the API key is not valid")
        limits = self._limits_of(entry)
        return entry, Client(client_id(api_keys[0]), entry.name, entry.is_admin, limits)

    def _limits_of(self, entry: KeyEntry) -> ClientLimits:
        """The part of this process."""
        default = self._settings
        return ClientLimits(
            self._share(entry.requests_per_minute or default.requests_per_minute),
            self._share(entry.tokens_per_minute or default.tokens_per_minute),
            self._share(entry.max_concurrent or default.max_concurrent_per_key),
        )

    def _share(self, limit: int | None) -> int | None:
        return None if limit is None else math.ceil(limit / self._num_processes)

    def _find_allowance(self, keys: KeySet, entry: KeyEntry, client: Client) -> Allowance:
        if keys is not self._keys_seen:
            self._keys_seen = keys
            self._allowances.keep(known.hash for known in keys.entries)
        return self._allowances.find(entry.hash, client.limits)


def _unauthorized(message: str) -> Unauthorized:
    return Unauthorized(message, "invalid_api_key")
