"""The server that the load test is checked against: what it sends, counts, delays and breaks."""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import aiohttp
import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.load.fake_server import (
    FAULT_PREFIX,
    TOKENS_PER_ITEM,
    Delays,
    FakeServer,
    Fault,
)

SHORT = Delays(ttft_s=0.004, itl_s=0.001)
ROLE = {"role": "assistant", "content": ""}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
OTHER_IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,BBBB"}}


@dataclass(frozen=True, slots=True)
class Client:
    http: aiohttp.ClientSession

    def post(self, content: Any = "one two three", **options: Any) -> Any:
        """`content`: of the user's only message, or all messages."""
        is_all = isinstance(content, list) and "role" in content[0]
        messages = content if is_all else [{"role": "user", "content": content}]
        fields = {"model": "fake", "max_tokens": 4, "messages": messages, **options}
        return self.http.post("/v1/chat/completions", data=orjson.dumps(fields))

    async def events(self, content: Any = "one two three", **options: Any) -> list[bytes]:
        """The payloads of a stream; `include_usage` is set."""
        usage = {"stream_options": {"include_usage": True}}
        async with self.post(content, **{"stream": True, **usage, **options}) as response:
            assert response.status == 200
            return payloads(await response.read())

    async def usage(self, content: Any) -> dict[str, Any]:
        async with self.post(content) as response:
            answer = await response.json()
        usage: dict[str, Any] = answer["usage"]
        return usage

    async def counters(self) -> dict[str, float]:
        async with self.http.get("/metrics") as response:
            families = list(text_string_to_metric_families(await response.text()))
        return {
            sample.name.removeprefix("vllm:"): sample.value
            for family in families
            for sample in family.samples
            if sample.name.endswith("_total")
        }


def payloads(body: bytes) -> list[bytes]:
    return [event.removeprefix(b"data: ") for event in body.split(b"\n\n") if event]


def chunks(events: Sequence[bytes]) -> list[dict[str, Any]]:
    return [orjson.loads(event) for event in events if event != b"[DONE]"]


def deltas(events: Sequence[bytes]) -> list[Mapping[str, str]]:
    return [c["choices"][0]["delta"] for c in chunks(events) if c["choices"]]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


@asynccontextmanager
async def client_of(server: FakeServer) -> AsyncIterator[Client]:
    async with server.running() as base_url, aiohttp.ClientSession(base_url) as http:
        yield Client(http)


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with client_of(FakeServer(SHORT)) as opened:
        yield opened


async def test_a_stream_is_a_role_the_tokens_the_end_and_the_usage(client: Client) -> None:
    events = await client.events()
    assert events[-1] == b"[DONE]"
    contents = [{"content": f"t{index} "} for index in range(4)]
    assert deltas(events) == [ROLE, *contents, {}]
    *_, end, usage = chunks(events)
    assert end["choices"][0]["finish_reason"] == "length"
    assert usage["choices"] == []
    assert usage["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


async def test_usage_comes_only_if_asked_for(client: Client) -> None:
    events = await client.events(stream_options=None)
    assert not any("usage" in chunk for chunk in chunks(events))
    assert events[-1] == b"[DONE]"


async def test_the_newer_name_of_the_limit_goes_first(client: Client) -> None:
    events = await client.events(max_completion_tokens=2)
    assert len(deltas(events)) == 1 + 2 + 1


async def test_tokens_are_due_at_a_fixed_distance_and_sent_no_earlier(client: Client) -> None:
    async with client.post(stream=True) as response:
        received_s = float(response.headers["x-received-s"])
        tokens = [c for c in chunks(payloads(await response.read())) if "due_s" in c]
    due_s = [token["due_s"] for token in tokens]
    steps = [later - earlier for earlier, later in pairwise(due_s)]
    assert due_s[0] >= received_s + SHORT.ttft_s - 1e-6  # the header is rounded
    assert steps == pytest.approx([SHORT.itl_s] * 3, abs=1e-6)
    assert all(token["sent_s"] >= token["due_s"] for token in tokens)


async def test_the_first_half_of_a_thinking_answer_is_reasoning(client: Client) -> None:
    events = await client.events(chat_template_kwargs={"enable_thinking": True})
    names = [next(iter(delta), None) for delta in deltas(events)[1:]]
    assert names == ["reasoning_content"] * 2 + ["content"] * 2 + [None]
    details = chunks(events)[-1]["usage"]["completion_tokens_details"]
    assert details == {"reasoning_tokens": 2}


async def test_a_whole_answer_has_what_the_stream_has(client: Client) -> None:
    async with client.post(chat_template_kwargs={"enable_thinking": True}) as response:
        assert float(response.headers["x-received-s"]) > 0
        answer = await response.json()
    assert answer["choices"][0]["message"] == {
        "role": "assistant",
        "content": "t2 t3 ",
        "reasoning_content": "t0 t1 ",
    }
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 4
    assert answer["sent_s"] >= answer["due_s"]


async def test_cached_tokens_are_those_of_the_parts_that_earlier_prompts_began_with(
    client: Client,
) -> None:
    first = await client.usage([user("a b"), user("c d e")])
    second = await client.usage([user("a b"), user("f"), user("c d e")])
    assert first["prompt_tokens_details"] == {"cached_tokens": 0}
    assert second["prompt_tokens"] == 6
    assert second["prompt_tokens_details"] == {"cached_tokens": 2}
    counters = await client.counters()
    assert counters["prefix_cache_queries_total"] == 5 + 6
    assert counters["prefix_cache_hits_total"] == 2


async def test_images_are_hits_if_their_url_has_come_before(client: Client) -> None:
    question = {"type": "text", "text": "what is it"}
    usage = await client.usage([IMAGE, OTHER_IMAGE, question])
    assert usage["prompt_tokens"] == 2 * TOKENS_PER_ITEM + 3
    usage = await client.usage([OTHER_IMAGE, question])
    assert usage["prompt_tokens_details"] == {"cached_tokens": 0}  # not what a prompt began with
    counters = await client.counters()
    assert counters["mm_cache_queries_total"] == 3
    assert counters["mm_cache_hits_total"] == 1


async def test_a_video_file_and_a_list_of_frames_are_items(client: Client) -> None:
    file = {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}
    frames = {"type": "video", "video": ["data:image/png;base64,AAAA"] * 4}
    assert (await client.usage([file, frames]))["prompt_tokens"] == 2 * TOKENS_PER_ITEM
    assert (await client.counters())["mm_cache_queries_total"] == 2


async def test_what_surrounds_the_chat(client: Client) -> None:
    for path in ("/health", "/ready"):
        async with client.http.get(path) as response:
            assert response.status == 200
    async with client.http.get("/v1/models") as response:
        assert [model["id"] for model in (await response.json())["data"]] == ["fake"]
    async with client.http.get("/version") as response:
        assert await response.json() == {"version": "fake"}


@pytest.mark.parametrize("stream", [True, False])
async def test_refusals_come_before_a_stream(client: Client, stream: bool) -> None:
    async with client.post(FAULT_PREFIX + "503", stream=stream) as response:
        assert response.status == 503
        assert response.headers["Retry-After"] == "1"
        assert (await response.json())["error"]["type"] == "server_error"
    async with client.post(FAULT_PREFIX + "400", stream=stream) as response:
        assert response.status == 400
        assert (await response.json())["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_cut_answer_has_no_end(client: Client, stream: bool) -> None:
    with pytest.raises(aiohttp.ClientError):
        async with client.post(FAULT_PREFIX + "cut", stream=stream) as response:
            await response.read()


async def test_a_stream_is_cut_after_half_of_its_tokens(client: Client) -> None:
    events = []
    with pytest.raises(aiohttp.ClientPayloadError):
        async with client.post(FAULT_PREFIX + "cut", stream=True) as response:
            async for line in response.content:
                events += payloads(line.strip())
    assert len(deltas(events)) == 1 + 2


async def test_an_error_in_a_stream_ends_it(client: Client) -> None:
    *before, error, done = await client.events(FAULT_PREFIX + "error_event")
    assert len(deltas(before)) == 1 + 2
    assert orjson.loads(error)["error"]["code"] == 500
    assert done == b"[DONE]"


async def test_an_event_that_is_no_json_stands_among_the_tokens(client: Client) -> None:
    events = await client.events(FAULT_PREFIX + "not_json")
    assert len(events) == 1 + 4 + 1 + 1 + 1 + 1
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(events[1 + 2])


async def test_an_empty_stream_ends_as_it_should_without_a_token(client: Client) -> None:
    events = await client.events(FAULT_PREFIX + "empty")
    assert deltas(events) == [ROLE, {}]
    assert chunks(events)[-1]["usage"]["completion_tokens"] == 0


async def test_whole_answers_fail_as_streams_do(client: Client) -> None:
    async with client.post(FAULT_PREFIX + "error_event") as response:
        assert response.status == 500
    async with client.post(FAULT_PREFIX + "not_json") as response:
        assert response.status == 200
        with pytest.raises(orjson.JSONDecodeError):
            orjson.loads(await response.read())
    async with client.post(FAULT_PREFIX + "empty") as response:
        assert (await response.json())["choices"][0]["message"]["content"] == ""


async def test_a_request_that_hangs_holds_nobody_up(client: Client) -> None:
    async def hang() -> None:
        async with client.post(FAULT_PREFIX + "hang"):
            pass

    hanging = asyncio.create_task(hang())
    await client.usage("hello")
    assert not hanging.done()
    hanging.cancel()


async def test_a_fault_is_asked_for_by_the_last_message_and_nothing_more(client: Client) -> None:
    asked = {"type": "text", "text": FAULT_PREFIX + "400"}
    async with client.post([IMAGE, asked]) as response:
        assert response.status == 400
    for content in ([user(FAULT_PREFIX + "400"), user("go on")], "400", "a fault: 400"):
        async with client.post(content) as response:
            assert response.status == 200


async def statuses(seed: int, shares: Mapping[Fault, float]) -> list[int]:
    async with client_of(FakeServer(SHORT, shares, seed=seed)) as client:
        found = []
        for _ in range(40):
            async with client.post(max_tokens=1) as response:
                found.append(response.status)
    return found


async def test_shares_of_requests_fail_as_the_seed_says() -> None:
    found = await statuses(1, {"503": 0.3, "400": 0.3})
    assert {200, 400, 503} == set(found)
    assert found == await statuses(1, {"503": 0.3, "400": 0.3})
    assert found != await statuses(2, {"503": 0.3, "400": 0.3})
    assert set(await statuses(1, {"503": 1.0})) == {503}


@pytest.mark.parametrize("shares", [{"503": 0.6, "400": 0.6}, {"503": -0.1}, {"typo": 0.1}])
def test_shares_that_are_none_are_refused(shares: dict[Fault, float]) -> None:
    with pytest.raises(ValueError, match="faults"):
        FakeServer(SHORT, shares)


def test_delays_of_requests_differ_within_the_jitter() -> None:
    rng = random.Random(0)
    drawn = [Delays(1.0, 0.1, jitter=0.2).drawn(rng) for _ in range(100)]
    assert len({(delays.ttft_s, delays.itl_s) for delays in drawn}) == 100
    assert all(0.8 <= delays.ttft_s <= 1.2 and 0.08 <= delays.itl_s <= 0.12 for delays in drawn)


def test_delays_without_jitter_are_fixed() -> None:
    drawn = Delays(1.0, 0.1).drawn(random.Random(0))
    assert drawn == Delays(1.0, 0.1)
    assert [drawn.token_s(index) for index in range(3)] == pytest.approx([1.0, 1.1, 1.2])


async def test_no_more_requests_are_answered_at_once_than_the_limit_says() -> None:
    delays = Delays(ttft_s=0.05, itl_s=0.001)
    async with client_of(FakeServer(delays, max_concurrent=2)) as client:
        answers = await asyncio.gather(*(client.events(max_tokens=3) for _ in range(6)))
    due_s = [[c["due_s"] for c in chunks(events) if "due_s" in c] for events in answers]
    spans = [(first - delays.ttft_s, last) for first, _, last in due_s]
    for start_s, _ in spans:
        assert sum(first_s <= start_s < last_s for first_s, last_s in spans) <= 2


async def test_a_client_that_goes_leaves_its_place_to_the_one_that_waits() -> None:
    server = FakeServer(Delays(0.001, itl_s=1000.0), max_concurrent=1)
    async with client_of(server) as client, client.post(stream=True) as first:
        assert [await next_delta(first), await next_delta(first)] == [ROLE, {"content": "t0 "}]
        async with client.post(stream=True, max_tokens=1) as waiting:
            assert await next_delta(waiting) == ROLE  # its response has begun
            first.close()
            assert await next_delta(waiting) == {"content": "t0 "}


async def next_delta(response: aiohttp.ClientResponse) -> Mapping[str, str]:
    event = await response.content.readuntil(b"\n\n")
    return deltas(payloads(event))[0]
