from collections.abc import AsyncIterator, Callable

import httpx
import pytest
import torch

from multimodal.items import VisualItem
from server import encoder_client
from server.encoder_client import EncoderClient
from server.errors import EncoderUnavailable, status_of

NAMESPACE = "0a" * 32
ITEM = VisualItem("video", "b1" * 32, 2, 4, torch.arange(8 * 1536).to(torch.uint8).view(8, 1536))

Answer = Callable[[], httpx.Response]


class Encoder:
    """Answers in turn; the last answer again and again."""

    def __init__(self, *answers: int | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer, json={"error": {"message": "no"}})


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_client, "_RETRY_AFTER_S", (0.0, 0.0))
    monkeypatch.setattr(encoder_client, "_OVERLOAD_RETRY_AFTER_S", (0.0,) * 4)


@pytest.fixture
async def make_client() -> AsyncIterator[Callable[[Encoder], EncoderClient]]:
    clients: list[EncoderClient] = []

    def make(encoder: Encoder) -> EncoderClient:
        clients.append(EncoderClient("http://encoder:1", NAMESPACE, httpx.MockTransport(encoder)))
        return clients[-1]

    yield make
    for client in clients:
        await client.close()


async def test_the_patches_are_the_body_and_nothing_else(make_client):
    encoder = Encoder(200)
    await make_client(encoder).encode(ITEM)
    (request,) = encoder.requests
    assert request.content == ITEM.patches.numpy().tobytes()
    assert request.headers["content-type"] == "application/octet-stream"
    assert dict(request.url.params) == {
        "key": ITEM.key,
        "modality": "video",
        "grid_h": "2",
        "grid_w": "4",
        "namespace": NAMESPACE,
    }


@pytest.mark.parametrize(
    ("answers", "num_attempts"),
    [
        ([httpx.ConnectError("refused"), 200], 2),
        ([httpx.RemoteProtocolError("restarted"), httpx.ConnectError("refused"), 200], 3),
        ([503, 503, 503, 200], 4),
        ([503, httpx.ConnectError("refused"), 503, 200], 4),
    ],
)
async def test_what_may_pass_is_tried_again(make_client, answers, num_attempts):
    encoder = Encoder(*answers)
    await make_client(encoder).encode(ITEM)
    assert len(encoder.requests) == num_attempts


@pytest.mark.parametrize(
    ("answer", "code", "num_attempts"),
    [
        (httpx.ConnectError("refused"), "encoder_unreachable", 3),
        (httpx.ConnectTimeout("nobody there"), "encoder_unreachable", 3),
        (httpx.ReadTimeout("hangs"), "encoder_timeout", 1),
        (503, "encoder_busy", 5),
        (409, "encoder_refuses", 1),
        (400, "encoder_refuses", 1),
        (500, "encoder_refuses", 1),
    ],
)
async def test_attempts_are_few_and_end_in_a_503(make_client, answer, code, num_attempts):
    encoder = Encoder(answer)
    with pytest.raises(EncoderUnavailable) as caught:
        await make_client(encoder).encode(ITEM)
    assert caught.value.code == code
    assert status_of(caught.value) == 503
    assert len(encoder.requests) == num_attempts


@pytest.mark.parametrize("api_key", ["sk-encoder", None])
async def test_the_encoder_is_shown_the_key_that_is_given(api_key):
    encoder = Encoder(200)
    transport = httpx.MockTransport(encoder)
    client = EncoderClient("http://encoder:1", NAMESPACE, transport, api_key=api_key)
    await client.encode(ITEM)
    await client.close()
    (request,) = encoder.requests
    assert request.headers.get("authorization") == (api_key and f"Bearer {api_key}")


async def test_a_key_that_the_encoder_refuses_is_not_in_the_log(caplog):
    encoder = Encoder(401)
    transport = httpx.MockTransport(encoder)
    client = EncoderClient("http://encoder:1", NAMESPACE, transport, api_key="sk-encoder")
    with pytest.raises(EncoderUnavailable) as caught:
        await client.encode(ITEM)
    await client.close()
    assert caught.value.code == "encoder_refuses" and len(encoder.requests) == 1
    assert "401" in caplog.text and "sk-encoder" not in caplog.text
