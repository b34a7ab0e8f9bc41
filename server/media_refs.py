"""The media of a request: URLs -> encoded bytes, all at once, within the request's budget."""

import asyncio
import itertools
from collections.abc import Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

from multimodal.errors import MediaTooLarge, UnsupportedMedia
from multimodal.items import FramesRef, ImageRef, MediaRef, VideoRef
from server.body_data_url import BodyDataUrl
from server.conversation import MediaSource
from server.held_bytes import Hold, hold_freely
from server.media_fetch import MediaFetcher, decode_data_url
from server.settings import MediaSettings

_MAX_SHORT_CHARS = 1_000_000  # 0.1 ms of base64

T = TypeVar("T")


async def load_media_refs(
    sources: Sequence[MediaSource],
    fetcher: MediaFetcher,
    settings: MediaSettings,
    hold: Hold = hold_freely,
) -> list[MediaRef]:
    """Fetch or decode every source; the first failure cancels the others.

    Args:
        hold: told of bytes as they come; what it raises is a failure, too.
    Raises: MediaError, with `param`.
    """
    _check_counts(sources, settings)
    loader = _RefLoader(fetcher, settings, hold)
    return await _gather(loader.load(source) for source in sources)


def count_bytes(ref: MediaRef) -> int:
    """Encoded bytes of one media part."""
    return sum(map(len, ref.frames)) if isinstance(ref, FramesRef) else len(ref.data)


def _check_counts(sources: Sequence[MediaSource], settings: MediaSettings) -> None:
    if len(sources) > settings.max_items_per_request:
        raise MediaTooLarge(
            f"the request has {len(sources)} images and videos; "
            f"at most {settings.max_items_per_request}",
            "too_many_media_items",
            sources[settings.max_items_per_request].param,
        )
    for source in sources:
        if len(source.urls) > settings.max_frames:
            raise MediaTooLarge(
                f"the video has {len(source.urls)} frames; at most {settings.max_frames}",
                "too_many_frames",
                source.param,
            )
    num_fetched = 0
    for source in sources:
        num_fetched += sum(not _is_data_url(url) for url in source.urls)
        if num_fetched > settings.max_frames:
            raise MediaTooLarge(
                f"the request has more than {settings.max_frames} URLs to be fetched",
                "too_many_media_urls",
                source.param,
            )


def _is_short(url: str) -> bool:
    """Whether a thread would cost more than decoding does."""
    num_chars = len(url.payload) if isinstance(url, BodyDataUrl) else len(url)
    return num_chars <= _MAX_SHORT_CHARS


def _is_data_url(url: str) -> bool:
    return url[:5].lower() == "data:"


async def _gather(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results, or the first failure after the others have been cancelled."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


class _RefLoader:
    """Loads the sources of one request and counts their bytes."""

    def __init__(self, fetcher: MediaFetcher, settings: MediaSettings, hold: Hold) -> None:
        self._fetcher = fetcher
        self._hold = hold
        self._settings = settings
        self._num_bytes = 0

    async def load(self, source: MediaSource) -> MediaRef:
        if source.kind == "image":
            data = await self._read_one(source, self._settings.max_image_bytes)
            return ImageRef(data, source.options, source.param)
        if source.kind == "video":
            data = await self._read_one(source, self._settings.max_video_bytes)
            return VideoRef(data, source.options, source.param)
        return FramesRef(await self._read_frames(source), source.options, source.param)

    async def _read_one(self, source: MediaSource, max_bytes: int) -> bytes:
        payloads = await self._read(source.urls[0], max_bytes, source.param)
        if len(payloads) != 1:
            message = f"the data URL holds {len(payloads)} items where one is needed"
            raise UnsupportedMedia(message, "invalid_data_url", source.param)
        return payloads[0]

    async def _read_frames(self, source: MediaSource) -> tuple[bytes, ...]:
        if len(source.urls) == 1:
            return await self._read(source.urls[0], self._settings.max_video_bytes, source.param)
        max_bytes = self._settings.max_image_bytes
        frames = await _gather(
            self._read(url, max_bytes, f"{source.param}[{index}]")
            for index, url in enumerate(source.urls)
        )
        return tuple(itertools.chain.from_iterable(frames))

    async def _read(self, url: str, max_bytes: int, param: str) -> tuple[bytes, ...]:
        remaining = self._settings.max_request_bytes - self._num_bytes
        max_bytes = min(max_bytes, max(remaining, 0))
        if _is_data_url(url):
            max_frames = self._settings.max_frames
            decode = partial(
                decode_data_url, url, max_bytes=max_bytes, max_frames=max_frames, param=param
            )
            decoded = decode() if _is_short(url) else await asyncio.to_thread(decode)
            payloads = decoded.payloads
            self._hold(sum(map(len, payloads)))
        else:
            payloads = (
                await self._fetcher.fetch(url, max_bytes=max_bytes, param=param, hold=self._hold),
            )
        self._charge(payloads, param)
        return payloads

    def _charge(self, payloads: tuple[bytes, ...], param: str) -> None:
        """Fetches run side by side, so the sum is known only as they end."""
        self._num_bytes += sum(map(len, payloads))
        if self._num_bytes > self._settings.max_request_bytes:
            raise MediaTooLarge(
                f"the media of the request exceed {self._settings.max_request_bytes} bytes",
                "media_too_large",
                param,
            )
