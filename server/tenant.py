"""Who shares cached images and videos with whom."""

from blake3 import blake3
from starlette.datastructures import Headers

from server.settings import CacheSettings

_SALT_CHARACTERS = 32


def tenant_of(headers: Headers, settings: CacheSettings) -> str:
    """A salt for content keys: "" where all clients share."""
    return "" if settings.tenant_salt == "none" else client_of(headers)


def client_of(headers: Headers) -> str:
    """Hex digits for a client with an API key, "" for all others."""
    api_key = headers.get("authorization") or headers.get("x-api-key")
    if not api_key:
        return ""
    api_key = api_key.removeprefix("Bearer ")  # as `x-api-key` has it
    return str(blake3(api_key.encode()).hexdigest()[:_SALT_CHARACTERS])
