"""What schemathesis does to valid bodies: they get through, and their answers are short.

Bodies that are to be refused stay as they are.
"""

import os
import re
from typing import Any

import schemathesis
from asked import PICTURE_BASE64, PICTURE_URL

MODEL = os.environ["SERVER_MODEL"]
_MAX_TOKENS = 2
_TIMEOUT, _SECONDS = "x-request-timeout", re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_MAX_TOKEN_ID = 255  # any vocabulary has so many
# How long an answer may get, by path; the first is said even where it need not be.
_LIMITS = {
    "/v1/chat/completions": ("max_completion_tokens", "max_tokens"),
    "/v1/completions": ("max_tokens",),
    "/v1/responses": ("max_output_tokens",),
    "/v1/messages": ("max_tokens",),
}
_MEDIA = {
    "data": PICTURE_BASE64,
    **dict.fromkeys(("image", "image_url", "url", "video", "video_url"), PICTURE_URL),
}


@schemathesis.hook
def before_call(
    context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]
) -> None:
    timeout = (case.headers or {}).get(_TIMEOUT)
    if timeout is not None and _SECONDS.fullmatch(timeout):
        case.headers[_TIMEOUT] = "300"  # a shorter one ends in a 504, as it should
    body = case.body
    if not isinstance(body, dict) or case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if case.headers:
        case.headers.pop("x-request-timeout", None)  # a short one is a 504
    if "model" in body:
        body["model"] = MODEL
    limits = _LIMITS.get(case.path, ())
    for name in limits:
        if name == limits[0] or body.get(name) is not None:
            body[name] = _MAX_TOKENS
    if case.path == "/start_profile":
        body |= {"tool": "torch"}  # py-spy has to be allowed to look at other processes
    if limits and body.get("min_tokens"):
        body["min_tokens"] = _MAX_TOKENS
    if case.meta.phase.name == "stateful":
        body |= {"stream": None, "stream_options": None}  # links go on from a whole answer's id
    case.body = _repair(body)


def _repair(value: Any, field: str = "") -> Any:
    """Media are a picture, stop tokens exist; 1.0, which JSON schemas call an integer, is one."""
    if isinstance(value, dict):
        return {name: _repair(part, name) for name, part in value.items()}
    if isinstance(value, list):
        return [_repair(part, field) for part in value]
    if isinstance(value, str):
        return _MEDIA.get(field, value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and field == "stop_token_ids":
        return min(value, _MAX_TOKEN_ID)
    return value
