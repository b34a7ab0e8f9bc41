"""What the client makes of answers, and of what goes wrong: against a server of known behaviour."""

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from aiohttp import web

from benchmarks.load.client import LoadClient, Place, RequestOptions, open_session
from benchmarks.load.fake_server import FAULT_PREFIX, Delays, FakeServer
from benchmarks.load.record import RequestRecord
from benchmarks.workload.turn import Turn

PLACE = Place(target=0, step=0, block=0, conversation=3, turn=1)


def options(**changes: Any) -> RequestOptions:
    given: dict[str, Any] = {
        "thinking": None,
        "ignore_eos": True,
        "temperature": 0.0,
        "timeout_s": 60.0,
        "extra_body": {},
    }
    return RequestOptions(**given | changes)


def turn(text: str = "Hello there") -> Turn:
    message = orjson.dumps({"role": "user", "content": text})
    return Turn((message,), num_images=2, num_videos=1, max_tokens=6)


async def ask(base_url: str, asked: Turn, **changes: Any) -> RequestRecord:
    async with open_session(api_key=None) as session:
        client = LoadClient(session, base_url, "fake", options(**changes), start_s=0.0)
        return await client.send(asked, client.encode(asked), PLACE, client.now_s())


@pytest.fixture
async def fake_url() -> AsyncIterator[str]:
    async with FakeServer(Delays(ttft_s=0.02, itl_s=0.01)).running() as base_url:
        yield base_url


async def test_an_answer_is_noted_with_its_place_times_and_usage(fake_url: str) -> None:
    record = await ask(fake_url, turn())
    assert record.is_ok
    assert (record.conversation, record.turn, record.status) == (3, 1, 200)
    assert (record.num_images, record.num_videos) == (2, 1)
    assert record.completion_tokens == 6
    assert record.prompt_tokens > 0
    assert record.first_s is not None and record.last_s is not None
    assert record.scheduled_s <= record.sent_s < record.first_s < record.last_s <= record.end_s
    assert len(record.gaps_s) == 5
    assert sum(record.gaps_s) == pytest.approx(record.last_s - record.first_s, abs=1e-4)
    assert record.ttft_s is not None and record.ttft_s >= 0.02  # no sooner than it is sent


async def test_reasoning_is_told_from_the_answer(fake_url: str) -> None:
    record = await ask(fake_url, turn(), thinking=True)
    assert record.reasoning_tokens == 3
    assert record.first_s is not None and record.first_answer_s is not None
    assert record.first_answer_s - record.first_s == pytest.approx(sum(record.gaps_s[:3]), abs=1e-4)


@pytest.mark.parametrize(
    ("fault", "error", "status"),
    [
        ("503", "http_5xx", 503),
        ("400", "http_4xx", 400),
        ("cut", "disconnect", 200),
        ("error_event", "error_event", 200),
        ("empty", "no_tokens", 200),
        ("not_json", "malformed", 200),
    ],
)
async def test_what_goes_wrong_has_a_kind(
    fake_url: str, fault: str, error: str, status: int
) -> None:
    record = await ask(fake_url, turn(f"{FAULT_PREFIX}{fault}"))
    assert (record.error, record.status) == (error, status)
    assert record.message
    assert not record.is_ok


async def test_a_server_that_never_answers_is_given_up(fake_url: str) -> None:
    record = await ask(fake_url, turn(f"{FAULT_PREFIX}hang"), timeout_s=0.2)
    assert record.error == "timeout"


async def test_nobody_listening_is_no_connection() -> None:
    record = await ask("http://127.0.0.1:9", turn())
    assert (record.error, record.status) == ("connect", None)


def test_the_body_is_what_the_flags_say() -> None:
    asked = options(thinking=False, extra_body={"top_p": 0.5, "temperature": 1})
    client = LoadClient(None, "http://host", "the-model", asked, 0.0)  # type: ignore[arg-type]
    assert orjson.loads(client.encode(turn())) == {
        "model": "the-model",
        "messages": [{"role": "user", "content": "Hello there"}],
        "max_tokens": 6,
        "temperature": 1,
        "top_p": 0.5,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "chat_template_kwargs": {"enable_thinking": False},
    }


def test_a_plain_openai_server_is_asked_for_nothing_it_does_not_know() -> None:
    asked = options(ignore_eos=False, temperature=None)
    assert set(asked.fields("m")) == {"model", "stream", "stream_options"}


async def answered_with(body: bytes) -> RequestRecord:
    """By a server that sends just this, in two pieces that cut a line."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(body[:25])
        await response.write(body[25:])
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        return await ask(f"http://{host}:{port}", turn())
    finally:
        await runner.cleanup()


def events(*fields: Any) -> bytes:
    return b"".join(b"data: " + orjson.dumps(event) + b"\r\n\r\n" for event in fields)


async def test_chunks_count_as_tokens_where_the_server_tells_no_usage() -> None:
    deltas = [{"content": "a"}, {"reasoning": "b"}, {"tool_calls": [{}]}]
    chunks = [{"choices": [{"delta": delta}]} for delta in deltas]
    end = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
    record = await answered_with(events(*chunks, end) + b"data: [DONE]\n\n")
    assert record.is_ok
    assert (record.completion_tokens, record.prompt_tokens) == (3, 0)


async def test_an_answer_whose_tokens_have_no_text_has_a_first_token() -> None:
    end = {"choices": [{"delta": {"content": ""}, "finish_reason": "length"}]}
    usage = {"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 2}}
    record = await answered_with(events({"choices": [{"delta": {"content": ""}}]}, end, usage))
    assert record.is_ok
    assert record.first_s is not None
    assert record.completion_tokens == 2


@pytest.mark.parametrize(
    "usage",
    [
        "x",
        5,
        [1],
        {"prompt_tokens": "7", "completion_tokens": [2]},
        {"completion_tokens": -4},
        {"prompt_tokens_details": [1], "completion_tokens_details": "x", "completion_tokens": 1},
    ],
)
async def test_a_usage_that_is_none_counts_nothing(usage: Any) -> None:
    chunk = {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}], "error": None}
    record = await answered_with(events(chunk, {"choices": [], "usage": usage}))
    assert record.is_ok
    assert (record.prompt_tokens, record.completion_tokens) == (0, 1)
    assert (record.reasoning_tokens, record.cached_tokens) == (0, 0)


@pytest.mark.parametrize(
    "body",
    [
        events({"choices": [{"delta": {"content": "a"}}]}),  # no end
        b"data: " + b"x" * (2**24 + 2),
        events({"choices": 5}),
        events({"choices": ["x"]}),
        events({"choices": [{"delta": "x"}]}),
        events([1]),
        b": only a comment that goes on and on\n\n",
        b"<html>proxy error, please try again</html>",
    ],
)
async def test_what_is_no_chat_completion_is_malformed(body: bytes) -> None:
    record = await answered_with(body)
    assert record.error == "malformed"
