"""Stand-ins for what surrounds the engine, and the application built on them."""

import base64
from collections.abc import Collection, Sequence
from typing import Any

import httpx
import torch
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from multimodal.errors import MediaCorrupt
from multimodal.items import FramesRef, ImageRef, LoadedMedia, MediaRef, PlacedItem, VisualItem
from multimodal.layout import ExpandedPrompt
from server.app import create_app
from server.body import parse_body
from server.engine import TokenLogprob
from server.grammar.output_grammar import OutputGrammar
from server.held_bytes import Hold
from server.lora_adapters import LoraAdapters
from server.protocol import ChatCompletionRequest
from server.settings import Settings
from server.state import Backend, ServerState
from server.thinking_budget import ThinkingEnd
from tests.fake_engine import CLOSE_ID, FakeEngine

TOKENS_PER_ITEM = 4
IMAGE_URL = "data:image/png;base64," + base64.b64encode(b"an image").decode()
CORRUPT_URL = "data:image/png;base64," + base64.b64encode(b"corrupt").decode()
VIDEO_URL = "data:video/mp4;base64," + base64.b64encode(b"a video").decode()


class FakeRenderer:
    """One token per word of text and one per media part."""

    close_id = CLOSE_ID

    def __init__(self, kind: str = "instruct") -> None:
        self.kind = kind
        self.thinks_by_default = kind != "instruct"
        self.generation_defaults: dict[str, Any] = {}
        self.calls: list[tuple[list[dict[str, Any]], bool]] = []
        self.tools: Sequence[dict[str, Any]] = ()

    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        thinking: bool,
        tools: Sequence[dict[str, Any]] = (),
    ) -> tuple[int, ...]:
        self.calls.append((messages, thinking))
        self.tools = tools
        return tuple(range(sum(_count_words(message["content"]) for message in messages)))

    def encode_prompt(self, text: str) -> tuple[int, ...]:
        return tuple(range(len(text.split())))

    def check_tokens(self, token_ids: Sequence[int], param: str) -> None:
        pass

    def decode(self, token_ids: Sequence[int]) -> str:
        return " ".join(f"t{token_id}" for token_id in token_ids)

    def decode_prompt(self, token_ids: Sequence[int]) -> str:
        return self.decode(token_ids)

    def end_thinking(self, sentence: str) -> ThinkingEnd:
        token_ids = (*range(len(sentence.split())), CLOSE_ID)
        logprobs = tuple(TokenLogprob(token_id, b"x", 0.0) for token_id in token_ids)
        return ThinkingEnd(token_ids, f"\n\n{sentence}\n</think>\n\n", logprobs)

    def expand(self, token_ids: Sequence[int], media: Sequence[LoadedMedia]) -> ExpandedPrompt:
        items = [item for loaded in media for item in loaded.items]
        placed = tuple(
            PlacedItem(item, offset=index * TOKENS_PER_ITEM, num_tokens=TOKENS_PER_ITEM)
            for index, item in enumerate(items)
        )
        num_added = len(items) * TOKENS_PER_ITEM - len(media)
        return ExpandedPrompt((*token_ids, *range(num_added)), placed)


class FakePipeline:
    """An image becomes one item, a video two; the bytes `corrupt` are refused."""

    def __init__(self) -> None:
        self.refs: list[MediaRef] = []
        self.max_tokens: int | None = None
        self.tenants: list[str] = []

    async def load(
        self, refs: Sequence[MediaRef], max_tokens: int | None = None, *, tenant: str = ""
    ) -> list[LoadedMedia]:
        self.refs.extend(refs)
        self.tenants.append(tenant)
        self.max_tokens = max_tokens
        return [self._load(ref) for ref in refs]

    async def load_patches(
        self, refs: Sequence[MediaRef], keys: Collection[str], *, tenant: str = ""
    ) -> dict[str, torch.Tensor]:
        return {key: torch.zeros(16, 768, dtype=torch.uint8) for key in keys}

    async def close(self) -> None:
        pass

    def _load(self, ref: MediaRef) -> LoadedMedia:
        if not isinstance(ref, FramesRef) and ref.data == b"corrupt":
            raise MediaCorrupt("the image cannot be decoded", "image_corrupt", ref.param)
        patches = torch.zeros(16, 768, dtype=torch.uint8)
        if isinstance(ref, ImageRef):
            return LoadedMedia("image", (VisualItem("image", "0" * 64, 4, 4, patches),))
        items = tuple(VisualItem("video", digit * 64, 4, 4, patches) for digit in "12")
        return LoadedMedia("video", items, (0.2, 1.2))


class FakeGrammars:
    """Takes every grammar."""

    def __init__(self) -> None:
        self.checked: list[OutputGrammar] = []

    async def check(self, grammar: OutputGrammar, client_id: str) -> None:
        self.checked.append(grammar)

    async def close(self) -> None:
        pass


class FakeFetcher:
    """Answers every URL with the same bytes."""

    def __init__(self, body: bytes = b"fetched") -> None:
        self.body = body
        self.urls: list[str] = []

    async def fetch(self, url: str, *, max_bytes: int, param: str, hold: Hold) -> bytes:
        self.urls.append(url)
        hold(len(self.body))
        return self.body

    async def close(self) -> None:
        pass


class Server:
    """The application on fakes, and the fakes."""

    def __init__(
        self,
        *script: Any,
        renderer: FakeRenderer | None = None,
        settings: Settings | None = None,
        is_loaded: bool = True,
        **info: Any,
    ) -> None:
        self.engine = FakeEngine(script, **info)
        self.renderer = renderer or FakeRenderer()
        self.pipeline = FakePipeline()
        self.fetcher = FakeFetcher()
        self.grammars = FakeGrammars()
        self.state = ServerState(settings or Settings(), CollectorRegistry())
        self.adapters = LoraAdapters(self.engine, self.state.settings.engine)
        if is_loaded:
            self.state.backend = self.backend
        self.app: FastAPI = create_app(self.state)

    @property
    def backend(self) -> Backend:
        return Backend(
            self.engine, self.renderer, self.pipeline, self.fetcher, self.grammars, self.adapters
        )

    async def post(self, content: Any = "hi", **fields: Any) -> httpx.Response:
        """A chat request with one user message, or with any `messages`."""
        return await self.request("POST", "/v1/chat/completions", json=make_body(content, **fields))

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await client.request(method, path, **options)

    def sample(self, name: str, **labels: str) -> float | None:
        """The sum of a metric's samples that have these labels; None if there are none."""
        values = [
            sample.value
            for family in self.state.metrics.registry.collect()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return sum(values) if values else None


def make_body(content: Any = "hi", **fields: Any) -> dict[str, Any]:
    return {"model": "qwen", "messages": [{"role": "user", "content": content}], **fields}


def parse_chat(body: bytes | bytearray) -> ChatCompletionRequest:
    return parse_body(body, ChatCompletionRequest).request


def image_part(url: str = IMAGE_URL, **options: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **options}}


def video_part(url: str = VIDEO_URL, **options: Any) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": url, **options}}


def assert_error(response: httpx.Response, status: int, code: str, param: str | None = None) -> str:
    """Check OpenAI's error body; return the message."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, param)
    assert error["type"] == ("invalid_request_error" if status < 500 else "server_error")
    return error["message"]


def _count_words(content: str | list[dict[str, str]]) -> int:
    if isinstance(content, str):
        return len(content.split())
    return sum(len(part.get("text", "one-token").split()) for part in content)
