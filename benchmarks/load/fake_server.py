"""A server whose delays are known, by which the load test's own clock is checked.

It speaks the parts of OpenAI's API and of vLLM's metrics that the load test uses, draws nothing but
delays and failures, and says in every chunk when it was due and when it was sent:

    python -m benchmarks.load.fake_server --port 8999 --ttft-ms 50 --itl-ms 10

Times are seconds of `time.perf_counter`, which on Linux is one clock for all processes, and the one
of asyncio's timers. Header `x-received-s`: when the head of the request had arrived. Fields of a
chunk: `due_s`, when it should be written, and `sent_s`, when it was about to be; so what a client
measures later than `sent_s` is the client's error, and `sent_s - due_s` is this server's.
"""

import argparse
import asyncio
import json
import random
import select
import selectors
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, generate_latest

MODEL_NAME = "fake"
TOKENS_PER_ITEM = 64  # prompt tokens of an image or video; text has one for each word

# 503, 400: refused. hang: never answered. cut: the connection closes after half of the tokens;
# error_event, not_json: such an event comes there. empty: an answer without a token.
Fault = Literal["503", "400", "hang", "cut", "error_event", "empty", "not_json"]
FAULTS: tuple[Fault, ...] = get_args(Fault)
# A request whose last message is this and the name of a fault, and nothing more, gets the fault.
FAULT_PREFIX = "fault: "

_DEFAULT_MAX_TOKENS = 16
_BACKLOG = 4096  # a burst of connections must not wait for the kernel to try again
_ENGINE_FAILED = "the engine failed"
_BAD_EVENT = b'data: {"choices": [{"del\n\n'
_DONE_EVENT = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Delays:
    """How long a request takes.

    Attributes:
        ttft_s: from the body's last byte, or from leaving the queue, to the first token.
        itl_s: from one token to the next.
        jitter: in [0, 1]; each request multiplies both delays by factors of its own, uniform in
            [1 - jitter, 1 + jitter].
    """

    ttft_s: float = 0.05
    itl_s: float = 0.01
    jitter: float = 0.0

    def token_s(self, index: int) -> float:
        """From the start to token `index`. The answer ends with its last token, so with
        `max_concurrent` places at most `max_concurrent / token_s(num_tokens - 1)` requests are
        answered in a second."""
        return self.ttft_s + index * self.itl_s

    def drawn(self, rng: random.Random) -> "Delays":
        """Those of one request."""
        low, high = 1 - self.jitter, 1 + self.jitter
        ttft_s, itl_s = (delay * rng.uniform(low, high) for delay in (self.ttft_s, self.itl_s))
        return replace(self, ttft_s=ttft_s, itl_s=itl_s)


@dataclass(frozen=True, slots=True)
class _Ask:
    """What a request gets: `num_tokens`, the first `num_reasoning` of them reasoning.

    `read_s`: when the last byte of its body had come. `headers`: of its response.
    """

    is_stream: bool
    includes_usage: bool
    num_tokens: int
    num_reasoning: int
    num_prompt_tokens: int
    num_cached_tokens: int
    delays: Delays
    fault: Fault | None
    read_s: float
    headers: Mapping[str, str]

    def delta(self, index: int) -> dict[str, str]:
        name = "reasoning_content" if index < self.num_reasoning else "content"
        return {name: f"t{index} "}

    @property
    def finish_reason(self) -> str:
        return "length" if self.num_tokens else "stop"

    @property
    def usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": self.num_tokens,
            "total_tokens": self.num_prompt_tokens + self.num_tokens,
            "prompt_tokens_details": {"cached_tokens": self.num_cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": self.num_reasoning},
        }


class _Caches:
    """Knows again what earlier prompts had, as vLLM's prefix and media caches do, and counts it.

    A prompt is a sequence of parts (texts, images, videos); those are cached that an earlier prompt
    began with as well. Only hashes are kept.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._prefixes: set[int] = set()
        self._media: set[int] = set()
        self._queries = self._counter("vllm:prefix_cache_queries", "tokens of prompts")
        self._hits = self._counter("vllm:prefix_cache_hits", "tokens that were cached")
        self._media_queries = self._counter("vllm:mm_cache_queries", "images and videos")
        self._media_hits = self._counter("vllm:mm_cache_hits", "those seen before, by URL")

    def count(self, messages: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
        """Remember a prompt; its tokens, and how many of them were cached."""
        num_tokens = num_cached = prefix = 0
        for message in messages:
            for part in _parts(message):
                content = _content(part)
                is_text = part["type"] == "text"
                num_part_tokens = len(content.split()) if is_text else TOKENS_PER_ITEM
                prefix = hash((prefix, message["role"], part["type"], content))
                num_tokens += num_part_tokens
                num_cached += num_part_tokens if prefix in self._prefixes else 0
                self._prefixes.add(prefix)
                if not is_text:
                    self._count_item(hash(content))
        self._queries.inc(num_tokens)
        self._hits.inc(num_cached)
        return num_tokens, num_cached

    def _count_item(self, item: int) -> None:
        self._media_queries.inc()
        self._media_hits.inc(item in self._media)
        self._media.add(item)

    def _counter(self, name: str, meaning: str) -> Counter:
        counter = Counter(name, meaning, ["model_name", "engine"], registry=self.registry)
        return counter.labels(MODEL_NAME, "0")


class FakeServer:
    """Answers with `max_tokens` tokens at their times.

    Args:
        delays: of a request that does not wait.
        faults: shares of all requests that fail, in [0, 1]; together at most 1.
        seed: of delays and failures, both drawn in the order in which requests arrive.
        max_concurrent: requests that are answered at once. Others wait in order of arrival, their
            response begun; None for no limit.
    Raises: ValueError for an unknown fault, or shares that are not those of a whole.
    """

    def __init__(
        self,
        delays: Delays,
        faults: Mapping[Fault, float] | None = None,
        *,
        seed: int = 0,
        max_concurrent: int | None = None,
    ) -> None:
        self._delays = delays
        self._faults = dict(faults or {})
        if unknown := self._faults.keys() - set(FAULTS):
            raise ValueError(f"faults: {sorted(unknown)} are none of {FAULTS}")
        if min(self._faults.values(), default=0) < 0 or sum(self._faults.values()) > 1:
            raise ValueError(f"faults: {self._faults} are no shares of a whole")
        self._rng = random.Random(seed)
        self._slots = asyncio.Semaphore(max_concurrent or sys.maxsize)
        self._caches = _Caches()
        self._profile: Mapping[str, str] = {}

    @asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator[str]:
        """Listens on 127.0.0.1, on any free port unless one is given; yields the base URL."""
        app = web.Application(client_max_size=0)  # of any size
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", _models)
        app.router.add_get("/version", _version)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/start_profile", self._start_profile)
        app.router.add_post("/stop_profile", self._stop_profile)
        for path in ("/health", "/ready"):
            app.router.add_get(path, _healthy)
        # A request whose client has gone must not keep its place.
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port, backlog=_BACKLOG).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        headers = {"x-received-s": f"{time.perf_counter():.6f}"}
        fault, delays = self._drawn_fault(), self._delays.drawn(self._rng)
        body = await request.read()
        read_s = time.perf_counter()
        fields = orjson.loads(body)
        fault = _fault_asked_for(fields["messages"][-1]) or fault
        if fault == "503":
            return _refusal(503, "no place is free", {**headers, "Retry-After": "1"})
        if fault == "400":
            return _refusal(400, "the request is refused", headers)
        if fault == "hang":
            await asyncio.Event().wait()
        ask = self._ask(fields, delays, fault, read_s, headers)
        return await (self._stream(request, ask) if ask.is_stream else self._whole(request, ask))

    async def _stream(self, request: web.Request, ask: _Ask) -> web.StreamResponse:
        headers = {**ask.headers, "Content-Type": "text/event-stream"}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        await response.write(_chunk({"role": "assistant", "content": ""}))
        async with self._slot(ask.read_s) as start_s:
            for index in range(ask.num_tokens):
                await _sleep_until(due_s := start_s + ask.delays.token_s(index))
                if index == ask.num_tokens // 2 and ask.fault is not None:
                    await _fail(request, response, ask.fault)
                    if ask.fault != "not_json":
                        return response
                await response.write(_chunk(ask.delta(index), due_s=due_s))
            if not ask.num_tokens:
                await _sleep_until(start_s + ask.delays.ttft_s)
        await response.write(_end(ask))
        return response

    async def _whole(self, request: web.Request, ask: _Ask) -> web.Response:
        """The answer when its last token is due; of the faults, `error_event` is a 500 here."""
        async with self._slot(ask.read_s) as start_s:
            due_s = start_s + ask.delays.token_s(max(ask.num_tokens - 1, 0))
            await _sleep_until(due_s)
        if ask.fault == "cut":
            _close(request)
        if ask.fault == "error_event":
            return _refusal(500, _ENGINE_FAILED, ask.headers)
        body = _BAD_EVENT if ask.fault == "not_json" else _completion(ask, due_s)
        return web.Response(body=body, content_type="application/json", headers=ask.headers)

    async def _metrics(self, _: web.Request) -> web.Response:
        body = generate_latest(self._caches.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _start_profile(self, request: web.Request) -> web.Response:
        self._profile = await request.json()
        return web.json_response({"tool": self._profile["tool"]})

    async def _stop_profile(self, _: web.Request) -> web.Response:
        """Names a file that there is not."""
        tool = self._profile["tool"]
        return web.json_response(
            {"tool": tool, "files": [f"{tool}.trace"], "directory": "/profiles"}
        )

    @asynccontextmanager
    async def _slot(self, read_s: float) -> AsyncIterator[float]:
        """A place among those that are answered, as the time from which delays count."""
        has_to_wait = self._slots.locked()
        async with self._slots:
            yield time.perf_counter() if has_to_wait else read_s

    def _drawn_fault(self) -> Fault | None:
        point = self._rng.random()
        for fault, share in self._faults.items():
            if point < share:
                return fault
            point -= share
        return None

    def _ask(
        self,
        fields: Mapping[str, Any],
        delays: Delays,
        fault: Fault | None,
        read_s: float,
        headers: Mapping[str, str],
    ) -> _Ask:
        limits = (fields.get("max_completion_tokens"), fields.get("max_tokens"))
        max_tokens = next(filter(None, limits), _DEFAULT_MAX_TOKENS)
        num_tokens = 0 if fault == "empty" else max_tokens
        thinks = (fields.get("chat_template_kwargs") or {}).get("enable_thinking") is True
        num_prompt_tokens, num_cached_tokens = self._caches.count(fields["messages"])
        return _Ask(
            is_stream=fields.get("stream") is True,
            includes_usage=(fields.get("stream_options") or {}).get("include_usage") is True,
            num_tokens=num_tokens,
            num_reasoning=num_tokens // 2 if thinks else 0,
            num_prompt_tokens=num_prompt_tokens,
            num_cached_tokens=num_cached_tokens,
            delays=delays,
            fault=fault,
            read_s=read_s,
            headers=headers,
        )


def _parts(message: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    content = message.get("content") or ()
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _content(part: Mapping[str, Any]) -> str:
    """Its text or URL; of a list of frames, the URLs."""
    value = part[part["type"]]
    if isinstance(value, Mapping):
        value = value["url"]
    return value if isinstance(value, str) else " ".join(value)


def _fault_asked_for(message: Mapping[str, Any]) -> Fault | None:
    parts = _parts(message)
    text = _content(parts[-1]) if parts else ""
    return next((fault for fault in FAULTS if text == FAULT_PREFIX + fault), None)


async def _sleep_until(due_s: float) -> None:
    await asyncio.sleep(max(0.0, due_s - time.perf_counter()))


async def _fail(request: web.Request, response: web.StreamResponse, fault: Fault) -> None:
    if fault == "cut":
        _close(request)
    elif fault == "error_event":
        await response.write(_event(_error(500, _ENGINE_FAILED)) + _DONE_EVENT)
    elif fault == "not_json":
        await response.write(_BAD_EVENT)


def _close(request: web.Request) -> None:
    """What is written from now on is dropped."""
    if request.transport is not None:
        request.transport.close()


def _event(fields: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(fields) + b"\n\n"


def _chunk(
    delta: Mapping[str, str], *, due_s: float | None = None, finish_reason: str | None = None
) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    times = {} if due_s is None else {"due_s": due_s, "sent_s": time.perf_counter()}
    return _event({**_head("chat.completion.chunk"), "choices": [choice], **times})


def _end(ask: _Ask) -> bytes:
    end = _chunk({}, finish_reason=ask.finish_reason)
    if ask.includes_usage:
        end += _event({**_head("chat.completion.chunk"), "choices": [], "usage": ask.usage})
    return end + _DONE_EVENT


def _completion(ask: _Ask, due_s: float) -> bytes:
    message = {"role": "assistant", "content": ""}
    for index in range(ask.num_tokens):
        for name, text in ask.delta(index).items():
            message[name] = message.get(name, "") + text
    choice = {"index": 0, "message": message, "finish_reason": ask.finish_reason}
    times = {"due_s": due_s, "sent_s": time.perf_counter()}
    answer = {**_head("chat.completion"), "choices": [choice], "usage": ask.usage, **times}
    return orjson.dumps(answer)


def _head(kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-fake", "object": kind, "created": 0, "model": MODEL_NAME}


def _error(status: int, message: str) -> dict[str, Any]:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


def _refusal(status: int, message: str, headers: Mapping[str, str]) -> web.Response:
    return web.json_response(_error(status, message), status=status, headers=headers)


async def _models(_: web.Request) -> web.Response:
    model = {"id": MODEL_NAME, "object": "model", "created": 0, "owned_by": "nobody"}
    return web.json_response({"object": "list", "data": [model]})


async def _version(_: web.Request) -> web.Response:
    return web.json_response({"version": MODEL_NAME})


async def _healthy(_: web.Request) -> web.Response:
    return web.Response()


class _PreciseSelector(selectors.EpollSelector):
    """Timers to some 0.1 ms: epoll rounds them up to whole milliseconds.

    `select` takes microseconds, and waits here for nothing but epoll's own descriptor.
    """

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout > 0:
            select.select([self], (), (), timeout)
        return super().select(0)


def _new_event_loop() -> asyncio.AbstractEventLoop:
    """Not uvloop: its timers may be 1 ms early, and it writes later than `sent_s` says."""
    return asyncio.SelectorEventLoop(_PreciseSelector())


async def _serve(server: FakeServer, port: int) -> None:
    async with server.running(port) as base_url:
        print(base_url, flush=True)
        await asyncio.Event().wait()


def main() -> None:
    arguments = _parser().parse_args()
    delays = Delays(arguments.ttft_ms / 1e3, arguments.itl_ms / 1e3, arguments.jitter)
    server = FakeServer(
        delays, arguments.faults, seed=arguments.seed, max_concurrent=arguments.max_concurrent
    )
    with (
        suppress(KeyboardInterrupt),
        asyncio.Runner(loop_factory=_new_event_loop) as runner,
    ):
        runner.run(_serve(server, arguments.port))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="0: any that is free; it is printed")
    parser.add_argument("--ttft-ms", type=float, default=50)
    parser.add_argument("--itl-ms", type=float, default=10)
    parser.add_argument("--jitter", type=float, default=0, help="of both delays, in [0, 1]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-concurrent", type=int, help="others wait")
    parser.add_argument(
        "--faults", type=json.loads, default={}, help='shares as JSON: {"503": 0.1, "cut": 0.05}'
    )
    return parser


if __name__ == "__main__":
    main()
