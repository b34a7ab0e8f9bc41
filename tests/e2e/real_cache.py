"""Servers whose vision cache is watched: pictures to send, answers with their sources, counts."""

import base64
import io
import os
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import httpx
import pytest
from PIL import Image

from demo.scenes import random_names, shapes_picture
from tests.e2e.real_media import video
from tests.e2e.real_server import RealServer, make_request
from tests.fake_backend import image_part

_SIDES = (224, 160)  # pixels: 35 tokens, or 12 in a list of frames
_TOLERANCE = 1e-3  # of logprobs; in float32 those of different batches differ by 1e-5
_EXTRA_BODY = {"ignore_eos": True, "chat_template_kwargs": {"enable_thinking": False}}
_WINDOW_PIXELS = {"min_pixels": 4096, "max_pixels": 16384}  # one size for windows of any length


@dataclass(frozen=True)
class Reply:
    """The drawn tokens and the logprobs, also of other likely tokens, of each choice.

    Attributes:
        sources: where each visual item came from.
    """

    tokens: tuple[tuple[str, ...], ...]
    logprobs: tuple[tuple[float, ...], ...]
    sources: tuple[str, ...]

    def assert_same_as(self, expected: "Reply") -> None:
        """Logprobs tell what a short text may hide: that one picture was taken for another."""
        assert self.tokens == expected.tokens
        for logprobs, others in zip(self.logprobs, expected.logprobs, strict=True):
            assert logprobs == pytest.approx(others, abs=_TOLERANCE)


@dataclass(frozen=True)
class Counts:
    """Visual items since the server's start; `retries` are those that the engine asked for."""

    decoded: int
    encoded: int
    retries: int

    def __sub__(self, other: Self) -> "Counts":
        return Counts(
            self.decoded - other.decoded,
            self.encoded - other.encoded,
            self.retries - other.retries,
        )


def start(
    log_path: Path, variables: Mapping[str, str] = MappingProxyType({}), **options: Any
) -> RealServer:
    """The embedded demo; arguments as for `RealServer`."""
    return RealServer("demo", log_path, variables, **{"max_model_len": 1024, **options})


def ask(
    server: RealServer,
    content: Any,
    *,
    api_key: str = "",
    is_streamed: bool = False,
    **options: Any,
) -> Reply:
    """One user message, answered greedily with 8 tokens unless the options say otherwise.

    Args:
        api_key: of the client; requests with different ones share nothing.
    """
    headers = {"x-include-item-sources": "1", **_key_header(api_key)}
    body = {**_EXTRA_BODY, **options.pop("extra_body", {})}
    request = {"logprobs": True, "top_logprobs": 2, "max_tokens": 8, "extra_body": body, **options}
    if not is_streamed:
        return _read([server.ask(content, extra_headers=headers, **request)])
    usage = {"include_usage": True}
    return _read(server.stream(content, stream_options=usage, extra_headers=headers, **request))


def abandon(server: RealServer, content: Any, timeout_s: float) -> None:
    """Send what `ask` sends, and go away before the answer is there."""
    request = {**make_request(content, max_tokens=200), **_EXTRA_BODY}
    with suppress(httpx.TimeoutException):
        url = f"{server.base_url}/v1/chat/completions"
        httpx.post(url, json=request, headers=_key_header(""), timeout=timeout_s)


def _key_header(api_key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key or 'all'}"}


def _read(completions: Sequence[Any]) -> Reply:
    """A whole answer or the chunks of a stream."""
    tokens: dict[int, list[str]] = {}
    logprobs: dict[int, list[float]] = {}
    for choice in (choice for completion in completions for choice in completion.choices):
        for drawn in choice.logprobs.content if choice.logprobs else ():
            tokens.setdefault(choice.index, []).append(drawn.token)
            candidates = [drawn, *drawn.top_logprobs]
            logprobs.setdefault(choice.index, []).extend(entry.logprob for entry in candidates)
    details = completions[-1].usage.prompt_tokens_details
    return Reply(
        tuple(tuple(tokens[index]) for index in sorted(tokens)),
        tuple(tuple(logprobs[index]) for index in sorted(logprobs)),
        tuple(details.item_sources),
    )


def count(server: RealServer) -> Counts:
    _bring_up_to_date(server)
    names = ("qwen3vl_vision_cache_encoded_total", "qwen3vl_vision_cache_retries_total")
    decoded = server.sample("qwen3vl_media_stage_seconds_count", stage="decode")
    return Counts(int(decoded), *(int(server.sample(name)) for name in names))


def count_in_tier(server: RealServer, tier: str, name: str) -> int:
    """Args: tier: device, host or disk. name: of a counter, such as `hits`."""
    _bring_up_to_date(server)
    return int(server.sample(f"qwen3vl_vision_cache_{name}_total", tier=tier))


def _bring_up_to_date(server: RealServer) -> None:
    """The engine tells its counts when a request ends."""
    server.ask("hi", max_tokens=1)


def entries(directory: Path) -> list[Path]:
    """The files of a tier, whatever is in them, in an order that does not change."""
    paths = directory.rglob("*.vision")
    return sorted(path for path in paths if path.is_file() and not path.is_symlink())


def _flip(path: Path, other: Path) -> None:
    """One bit, which makes a number of an embedding very large or very small."""
    data = bytearray(path.read_bytes())
    if data:
        data[len(data) // 2 | 3] ^= 0x40
        path.write_bytes(data)


def _truncate(path: Path, other: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _empty(path: Path, other: Path) -> None:
    os.truncate(path, 0)


def _exchange(path: Path, other: Path) -> None:
    path.write_bytes(other.read_bytes())


def _make_directory(path: Path, other: Path) -> None:
    path.unlink()
    path.mkdir()


def _link(path: Path, other: Path) -> None:
    path.unlink()
    path.symlink_to(other)


def _make_fifo(path: Path, other: Path) -> None:
    path.unlink()
    os.mkfifo(path)


# Each is called with the file of an entry, and that of another one.
DAMAGES: Mapping[str, Callable[[Path, Path], None]] = {
    "flipped": _flip,
    "truncated": _truncate,
    "emptied": _empty,
    "exchanged": _exchange,
    "directory": _make_directory,
    "link": _link,
    "fifo": _make_fifo,
}


@lru_cache(maxsize=256)
def picture(seed: int, kind: str = "PNG") -> bytes:
    """Three shapes. Args: kind: PNG or JPEG."""
    rng = random.Random(f"cache/{seed}")
    drawn = shapes_picture(rng, random_names(rng, 3), False).draw()
    buffer = io.BytesIO()
    Image.fromarray(drawn).resize(_SIDES).save(buffer, kind)
    return buffer.getvalue()


def picture_part(seed: int, kind: str = "PNG") -> dict[str, Any]:
    return image_part(data_url(picture(seed, kind), kind))


def frames_part(seeds: Sequence[int]) -> dict[str, Any]:
    """A list of frames, of which each pair becomes one visual item."""
    return {"type": "video", "video": [data_url(picture(seed)) for seed in seeds], **_WINDOW_PIXELS}


def window_part(start_s: float, end_s: float) -> dict[str, Any]:
    """Of the clip of 2.96 s. Each second, two frames, is one visual item."""
    return video(video_start=start_s, video_end=end_s, **_WINDOW_PIXELS)


def data_url(data: bytes, kind: str = "PNG") -> str:
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data).decode()}"
