"""The encoder process over HTTP, with a tower that only keeps what it was asked."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from multimodal.preprocessor_config import PreprocessorConfig
from server.app import create_app
from server.encode_queue import Call, EncodeQueue
from server.settings import EngineSettings, MediaSettings, Settings
from server.state import EncoderBackend, ServerState
from tests.fake_engine import FakeEngine

NAMESPACE = "0a" * 32
KEY = "b1" * 32
NUM_BYTES = 4 * 6 * 768


class Encoder:
    """An encoder process on fakes."""

    def __init__(self, **media: Any) -> None:
        settings = Settings(engine=EngineSettings(role="encoder"), media=MediaSettings(**media))
        self.calls: list[Call] = []
        self.stored: set[str] = set()
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.engine = FakeEngine()
        self.state = ServerState(settings, CollectorRegistry())
        queue = EncodeQueue(self.encode, self.stored.__contains__, 100)
        self.state.backend = EncoderBackend(self.engine, queue, PreprocessorConfig(), NAMESPACE)
        self.app = create_app(self.state)

    async def encode(self, calls: Sequence[Call]) -> Collection[str]:
        self.calls += calls
        await self.may_go_on.wait()
        self.stored |= {call[0] for call in calls}
        return ()

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await client.request(method, path, **options)

    async def post(self, body: bytes, **changes: str) -> httpx.Response:
        query = {"key": KEY, "modality": "image", "grid_h": "4", "grid_w": "6"}
        return await self.request(
            "POST",
            "/v1/vision/encode",
            params={**query, "namespace": NAMESPACE, **changes},
            content=body,
            headers={"content-type": "application/octet-stream"},
        )


@pytest.fixture
async def encoder() -> AsyncIterator[Encoder]:
    encoder = Encoder()
    yield encoder
    await encoder.state.close()


async def test_patches_get_to_the_tower_as_they_are(encoder):
    body = bytes(index % 251 for index in range(NUM_BYTES))
    answer = await encoder.post(body)
    assert (answer.status_code, answer.json()) == (200, {"key": KEY})
    assert encoder.calls == [(KEY, 4, 6, body)]
    again = await encoder.post(body)
    assert again.status_code == 200
    assert len(encoder.calls) == 1


@pytest.mark.parametrize("num_bytes", [0, NUM_BYTES - 1, NUM_BYTES + 1, 2 * NUM_BYTES])
async def test_a_body_of_another_length_is_refused(encoder, num_bytes):
    answer = await encoder.post(bytes(num_bytes))
    assert answer.status_code == 400
    assert str(NUM_BYTES) in answer.json()["error"]["message"]
    assert encoder.calls == []


@pytest.mark.parametrize("num_chunks", [1, 3])
async def test_a_body_without_a_length_is_read_no_further_than_needed(encoder, num_chunks):
    num_read = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal num_read
        for _ in range(num_chunks):
            num_read += 1
            yield bytes(NUM_BYTES - 100)

    answer = await encoder.post(chunks())
    assert answer.status_code == 400
    assert num_read <= 2
    assert encoder.calls == []


async def test_another_namespace_is_a_conflict(encoder):
    answer = await encoder.post(bytes(NUM_BYTES), namespace="ff" * 32)
    assert answer.status_code == 409
    assert NAMESPACE in answer.json()["error"]["message"]


async def test_a_wrong_key_is_refused(encoder):
    answer = await encoder.post(bytes(NUM_BYTES), key="../../etc/passwd")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "key"


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/json"},
        {"content-type": "application/octet-stream", "content-encoding": "gzip"},
    ],
)
async def test_only_plain_bytes_are_taken(encoder, headers):
    query = {"key": KEY, "modality": "image", "grid_h": "4", "grid_w": "6", "namespace": NAMESPACE}
    answer = await encoder.request(
        "POST", "/v1/vision/encode", params=query, content=bytes(NUM_BYTES), headers=headers
    )
    assert answer.status_code == 415
    assert encoder.calls == []


async def test_what_does_not_fit_the_memory_is_refused_at_once():
    room = 2 * NUM_BYTES
    encoder = Encoder(max_decoded_bytes=room, max_total_decoded_bytes=room)
    encoder.may_go_on.clear()
    waiting = [
        asyncio.create_task(encoder.post(bytes(NUM_BYTES), key=key * 32)) for key in ("c1", "c2")
    ]
    async with asyncio.timeout(10):
        while not encoder.calls:
            await asyncio.sleep(0.001)
    refused = await encoder.post(bytes(NUM_BYTES), key="c3" * 32)
    assert refused.status_code == 503
    assert "retry-after" in refused.headers
    encoder.may_go_on.set()
    assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200, 200]
    assert (await encoder.post(bytes(NUM_BYTES), key="c3" * 32)).status_code == 200
    await encoder.state.close()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/responses"),
        ("POST", "/v1/messages"),
        ("POST", "/tokenize"),
        ("GET", "/v1/models"),
    ],
)
async def test_what_needs_a_language_model_is_not_found(encoder, method, path):
    answer = await encoder.request(method, path, json={} if method == "POST" else None)
    assert answer.status_code == 404
    assert "only encodes" in answer.json()["error"]["message"]


async def test_health_readiness_and_metrics_are_those_of_any_server(encoder):
    assert (await encoder.request("GET", "/ready")).status_code == 200
    assert (await encoder.request("GET", "/health")).json()["status"] == "ok"
    assert "qwen3vl_encoder_items" in (await encoder.request("GET", "/metrics")).text
    encoder.engine.is_dead = True
    assert (await encoder.request("GET", "/ready")).status_code == 503
    assert (await encoder.request("GET", "/health")).status_code == 503


async def test_nothing_is_taken_while_it_is_loading_or_ending(encoder):
    backend, encoder.state.backend = encoder.state.backend, None
    assert (await encoder.post(bytes(NUM_BYTES))).status_code == 503
    encoder.state.backend = backend
    encoder.state.drain()
    assert (await encoder.post(bytes(NUM_BYTES))).status_code == 503
    assert encoder.calls == []
