"""Sends chat completions and notes when what of the answer came."""

import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from benchmarks.load.record import ErrorKind, RequestRecord
from benchmarks.load.scrape import Samples, scrape
from benchmarks.workload.turn import Turn

_KEEP_ALIVE_S = 4.0  # less than uvicorn's 5 s, so that no connection is taken that is being closed
_MAX_MESSAGE = 300  # characters of an error that are kept
_MAX_ERROR_BYTES = 4096
_MAX_LINE_BYTES = 2**24
_DATA = b"data:"
_DONE = b"[DONE]"


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """What every request of a run has in common.

    Attributes:
        thinking: on, off, or what the server does by itself (None).
        ignore_eos: answers have the length that was asked for; an extension of vLLM's.
        extra_body: added as it is, over everything else.
    """

    thinking: bool | None
    ignore_eos: bool
    temperature: float | None
    timeout_s: float
    extra_body: Mapping[str, Any]

    def fields(self, model: str) -> dict[str, Any]:
        """Of the body, but for messages and length."""
        fields: dict[str, Any] = {
            "model": model,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.temperature is not None:
            fields["temperature"] = self.temperature
        if self.ignore_eos:
            fields["ignore_eos"] = True
        if self.thinking is not None:
            fields["chat_template_kwargs"] = {"enable_thinking": self.thinking}
        return fields | dict(self.extra_body)


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the run a request stands; see `RequestRecord`."""

    target: int
    step: int
    block: int
    conversation: int
    turn: int


class LoadClient:
    """One server. Many requests may be under way at once.

    Args:
        start_s: of the run, in the time of `time.perf_counter`.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        model: str,
        options: RequestOptions,
        start_s: float,
    ) -> None:
        self._session = session
        self._base_url = base_url
        self._url = f"{base_url}/v1/chat/completions"
        self._fields = options.fields(model)
        self._timeout = aiohttp.ClientTimeout(total=options.timeout_s, sock_connect=30)
        self._start_s = start_s

    def now_s(self) -> float:
        return time.perf_counter() - self._start_s

    async def scrape(self) -> Samples:
        return await scrape(self._session, self._base_url)

    def encode(self, turn: Turn) -> bytes:
        """The body. Before the request is due: large ones take milliseconds."""
        messages = [orjson.Fragment(message) for message in turn.messages]
        return orjson.dumps({"max_tokens": turn.max_tokens, **self._fields, "messages": messages})

    async def send(
        self, turn: Turn, body: bytes, place: Place, scheduled_s: float
    ) -> RequestRecord:
        """Ask and wait for the whole answer. Failures are part of what is measured."""
        arrival = _Arrival()
        sent_s = self.now_s()
        try:
            await self._exchange(body, arrival)
            arrival.check_complete()
        except TimeoutError:
            arrival.fail("timeout", "no complete answer in time")
        except aiohttp.ClientConnectorError as error:
            arrival.fail("connect", str(error))
        except (aiohttp.ClientError, OSError) as error:
            arrival.fail("disconnect", str(error) or type(error).__name__)
        except _BadAnswer as error:
            arrival.fail(error.kind, str(error))
        return arrival.record(turn, place, len(body), scheduled_s, sent_s, self.now_s())

    async def _exchange(self, body: bytes, arrival: "_Arrival") -> None:
        async with self._session.post(self._url, data=body, timeout=self._timeout) as response:
            arrival.status = response.status
            if response.status != 200:
                kind: ErrorKind = "http_5xx" if response.status >= 500 else "http_4xx"
                said = await response.content.read(_MAX_ERROR_BYTES)
                raise _BadAnswer(kind, said.decode(errors="replace"))
            rest = b""
            while not response.content.at_eof():
                data = await response.content.readany()
                time_s = self.now_s()
                *lines, rest = (rest + data).split(b"\n")
                if len(rest) > _MAX_LINE_BYTES:
                    raise _BadAnswer("malformed", f"a line of more than {_MAX_LINE_BYTES} bytes")
                for event in _events(lines):
                    arrival.take(event, time_s)


class _BadAnswer(Exception):
    def __init__(self, kind: ErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(slots=True)
class _Arrival:
    """What has come of an answer."""

    status: int | None = None
    first_s: float | None = None
    first_answer_s: float | None = None
    last_s: float | None = None
    gaps_s: list[float] = field(default_factory=list)
    usage: Mapping[str, Any] = field(default_factory=dict)
    is_finished: bool = False
    error: ErrorKind | None = None
    message: str | None = None

    def take(self, event: Mapping[str, Any], time_s: float) -> None:
        """Raises: _BadAnswer for an error event, and for what is no event of chat completions."""
        if event.get("error"):
            raise _BadAnswer("error_event", orjson.dumps(event["error"]).decode())
        try:
            self.usage = _as_object(event.get("usage")) or self.usage
            self._take_choices(event.get("choices") or (), time_s)
        except (AttributeError, TypeError):
            raise _BadAnswer("malformed", "not an event of chat completions") from None

    def _take_choices(self, choices: Iterable[Mapping[str, Any]], time_s: float) -> None:
        for choice in choices:
            delta = choice.get("delta") or {}
            is_answer = bool(delta.get("content") or delta.get("tool_calls"))
            if is_answer or delta.get("reasoning_content") or delta.get("reasoning"):
                self._take_tokens(time_s, is_answer)
            if choice.get("finish_reason"):
                self.is_finished = True
                if self.first_s is None:  # all its tokens were without text
                    self._take_tokens(time_s, is_answer=True)

    def _take_tokens(self, time_s: float, is_answer: bool) -> None:
        if self.last_s is None:
            self.first_s = time_s
        else:
            self.gaps_s.append(time_s - self.last_s)
        self.last_s = time_s
        if is_answer and self.first_answer_s is None:
            self.first_answer_s = time_s

    @property
    def num_chunks(self) -> int:
        """With tokens: what there is to count if the server does not tell its usage."""
        return 0 if self.first_s is None else 1 + len(self.gaps_s)

    def check_complete(self) -> None:
        """Raises: _BadAnswer."""
        if not self.is_finished:
            raise _BadAnswer("malformed", "the stream ended without a finish_reason")
        if self.usage.get("completion_tokens") == 0:
            raise _BadAnswer("no_tokens", "an answer of no tokens")

    def fail(self, kind: ErrorKind, message: str) -> None:
        self.error, self.message = kind, message[:_MAX_MESSAGE]

    def record(
        self,
        turn: Turn,
        place: Place,
        num_bytes: int,
        scheduled_s: float,
        sent_s: float,
        end_s: float,
    ) -> RequestRecord:
        prompt = _as_object(self.usage.get("prompt_tokens_details"))
        completion = _as_object(self.usage.get("completion_tokens_details"))
        return RequestRecord(
            target=place.target,
            step=place.step,
            block=place.block,
            conversation=place.conversation,
            turn=place.turn,
            num_images=turn.num_images,
            num_videos=turn.num_videos,
            num_bytes=num_bytes,
            scheduled_s=_rounded(scheduled_s),
            sent_s=_rounded(sent_s),
            first_s=_rounded_if(self.first_s),
            first_answer_s=_rounded_if(self.first_answer_s),
            last_s=_rounded_if(self.last_s),
            end_s=_rounded(end_s),
            gaps_s=tuple(_rounded(gap) for gap in self.gaps_s),
            prompt_tokens=_as_count(self.usage.get("prompt_tokens")),
            completion_tokens=_as_count(self.usage.get("completion_tokens")) or self.num_chunks,
            reasoning_tokens=_as_count(completion.get("reasoning_tokens")),
            cached_tokens=_as_count(prompt.get("cached_tokens")),
            status=self.status,
            error=self.error,
            message=self.message,
        )


def _events(lines: list[bytes]) -> Iterator[Mapping[str, Any]]:
    """Raises: _BadAnswer if an event is no JSON object."""
    for line in lines:
        payload = line.removeprefix(_DATA).strip()
        if not line.startswith(_DATA) or payload == _DONE:
            continue
        try:
            event = orjson.loads(payload)
        except orjson.JSONDecodeError:
            event = None
        if not isinstance(event, dict):
            raise _BadAnswer("malformed", f"no JSON object: {payload[:100]!r}")
        yield event


def _as_object(value: object) -> Mapping[str, Any]:
    """An empty one for anything else."""
    return value if isinstance(value, dict) else {}


def _as_count(value: object) -> int:
    """0 for anything else."""
    return value if isinstance(value, int) and value > 0 else 0


def _rounded(seconds: float) -> float:
    """To microseconds: more says nothing, and is long in JSON."""
    return round(seconds, 6)


def _rounded_if(seconds: float | None) -> float | None:
    return None if seconds is None else _rounded(seconds)


@asynccontextmanager
async def open_session(api_key: str | None) -> AsyncIterator[aiohttp.ClientSession]:
    """As many connections as there are requests; no proxies, no cookies."""
    headers = {"Content-Type": "application/json"}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S)
    async with aiohttp.ClientSession(
        connector=connector,
        headers=headers,
        cookie_jar=aiohttp.DummyCookieJar(),
        read_bufsize=2**20,
    ) as session:
        yield session
