"""The floor of `benchmarks.stream`: python -m benchmarks.floor_stream CHECKPOINT.

For each output of the engine, an event of the size that a client gets is encoded and sent.
"""

import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import orjson
import uvloop
from transformers import AutoTokenizer

from benchmarks.stream_engine import StepEngine
from benchmarks.stream_side import answer
from benchmarks.stream_work import MODEL_NAME, NUM_TOP_LOGPROBS, Variant

_TOKEN = {"token": " small", "logprob": -0.8675005435943604, "bytes": list(b" small")}
_LOGPROBS = {"content": [{**_TOKEN, "top_logprobs": [_TOKEN] * NUM_TOP_LOGPROBS}], "refusal": None}
_USAGE = {
    "prompt_tokens": 16,
    "completion_tokens": 256,
    "total_tokens": 272,
    "prompt_tokens_details": {"cached_tokens": 0, "image_tokens": 0, "video_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0},
}

Send = Callable[[dict[str, Any]], Awaitable[None]]


async def write_stream(
    engine: StepEngine, variant: Variant, scope: object, receive: object, send: Send
) -> None:
    """An ASGI application, from its third argument on."""
    head: dict[str, Any] = {
        "id": f"chatcmpl-{'0' * 32}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": MODEL_NAME,
    }
    if variant == "usage":
        head["usage"] = _USAGE
    choice = {
        "index": 0,
        "logprobs": _LOGPROBS if variant == "logprobs" else None,
        "finish_reason": None,
    }
    await send({"type": "http.response.start", "status": 200, "headers": []})
    async for output in engine.generate({"prompt_token_ids": []}):
        delta = {"content": output.outputs[0].text}
        event = orjson.dumps({**head, "choices": [{**choice, "delta": delta}]})
        await _send(send, b"data: " + event + b"\n\n")
    await _send(send, b"data: [DONE]\n\n")


async def _send(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def main(checkpoint: str) -> None:
    engine = StepEngine(AutoTokenizer.from_pretrained(checkpoint))
    await answer(lambda work: (partial(write_stream, engine, work.variant), engine))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
