"""Who sends a request, as far as the server knows."""

from dataclasses import dataclass

from blake3 import blake3
from starlette.datastructures import Headers

from server.settings import CacheSettings

_ID_CHARACTERS = 32


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """What one client may ask for; None is no limit of its own."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrent: int | None = None


@dataclass(frozen=True, slots=True)
class Client:
    """`id`: hex digits that stand for an API key, "" for all clients without one.

    `name` is what the keys file calls the key, for logs; None where there is no such file.
    """

    id: str = ""
    name: str | None = None
    is_admin: bool = False
    limits: ClientLimits = ClientLimits()

    def tenant(self, settings: CacheSettings) -> str:
        """A salt for content keys: who shares cached images and videos with whom."""
        return "" if settings.tenant_salt == "none" else self.id


def read_api_keys(headers: Headers) -> list[str]:
    """What all `Authorization: Bearer` and `x-api-key` present, each key once."""
    bearers = [_strip_scheme(value) for value in headers.getlist("authorization") if value]
    return list(dict.fromkeys([*bearers, *filter(None, headers.getlist("x-api-key"))]))


def read_api_key(headers: Headers) -> str | None:
    """The first of them."""
    return next(iter(read_api_keys(headers)), None)


def _strip_scheme(authorization: str) -> str:
    scheme, _, rest = authorization.partition(" ")
    return rest.strip() if scheme.lower() == "bearer" else authorization


def client_id(api_key: str | None) -> str:
    """See `Client.id`."""
    return "" if api_key is None else str(blake3(api_key.encode()).hexdigest()[:_ID_CHARACTERS])
