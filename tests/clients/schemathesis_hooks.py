"""What schemathesis does to a request before it is sent: an existing model, a short answer."""

import os
from typing import Any

import schemathesis

MODEL = os.environ["SERVER_MODEL"]
_MAX_TOKENS = 2
# How long an answer may get, by path; said even where it need not be.
_LIMITS = {
    "/v1/chat/completions": ("max_completion_tokens", "max_tokens", "min_tokens"),
    "/v1/completions": ("max_tokens", "min_tokens"),
    "/v1/responses": ("max_output_tokens",),
    "/v1/messages": ("max_tokens",),
}


@schemathesis.hook
def before_call(
    context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]
) -> None:
    body = case.body
    if not isinstance(body, dict) or case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if "model" in body:
        body["model"] = MODEL
    limits = _LIMITS.get(case.path, ())
    for name in limits:
        if isinstance(body.get(name), int):
            body[name] = min(body[name], _MAX_TOKENS)
    if limits:
        body[limits[0]] = _MAX_TOKENS
