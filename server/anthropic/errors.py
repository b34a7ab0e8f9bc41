"""Errors as Anthropic's API has them; OpenAI's `param` and `code` stay where they are."""

from collections.abc import Mapping
from typing import Any

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def describe_error(body: Mapping[str, Any], status: int) -> dict[str, Any]:
    """Anthropic's error object made of OpenAI's."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {**body["error"], "type": kind}}
