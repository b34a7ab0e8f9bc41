"""Encoded media from where a request says they are: an http(s), file or data URL.

A fetch checks the URL, then (`address_check`) the addresses of its host, and connects to what was
checked. Redirects start over at the first check. Nothing is taken from the environment and nothing
is kept: no proxies, no credentials, no cookies.
"""

import asyncio
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import httpcore
import httpx
import pybase64

from multimodal.errors import MediaCorrupt, MediaError, MediaTooLarge, UnsupportedMedia
from multimodal.fair_threads import CURRENT_CLIENT
from server.address_check import (
    AddressCheck,
    CheckedBackend,
    Resolver,
    SystemResolver,
    is_public_address,
)
from server.body_data_url import BodyDataUrl
from server.fetch_slots import FetchSlots
from server.head_bound import HeadBound, HeadBoundBackend
from server.held_bytes import Hold, hold_freely
from server.local_media import LocalMedia, is_file_url
from server.media_url import UrlNotAllowed, UrlRules

KEEPALIVE_S = 10.0
MAX_TINY_CHUNKS = 4096  # of a body; each costs the event loop about 50 us
_TINY_BYTES = 512
_CHUNKS_PER_TURN = 64  # parsed before anything else gets its turn
REDIRECTS = frozenset({301, 302, 303, 307, 308})

_MEDIA_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+", re.ASCII)


class FetchFailed(MediaError):
    """The other side did not deliver; `code` is `fetch_failed` or `fetch_timeout`."""

    def __init__(self, message: str, code: str = "fetch_failed", param: str | None = None) -> None:
        super().__init__(message, code, param)


class MediaFetcher:
    """Fetches media URLs. One per process; every method is safe to call from several tasks at once.

    Any port may be named in a URL; what protects the network is the check of the address.

    Args:
        http_allowed: fetch http:// as well, also as the target of a redirect from https://.
        allowed_domains, denied_domains: see `UrlRules`.
        connect_timeout_s: for one TCP connection, and for one TLS handshake.
        total_timeout_s: for a whole fetch: waiting for a free slot, redirects, body.
        max_redirects: redirects followed before giving up.
        max_parallel: fetches under way at once.
        max_parallel_per_host: the same of one host name.
        local: reads `file://` URLs; None refuses them.
        resolve: name and port -> addresses; by default the system's resolver.
        is_allowed: which addresses may be connected to; by default those of the public internet.
        ssl_context: by default the public certificate authorities.
    """

    def __init__(
        self,
        *,
        http_allowed: bool,
        allowed_domains: tuple[str, ...],
        connect_timeout_s: float,
        total_timeout_s: float,
        max_redirects: int,
        max_parallel: int,
        denied_domains: tuple[str, ...] = (),
        max_parallel_per_host: int | None = None,
        local: LocalMedia | None = None,
        resolve: Resolver | None = None,
        is_allowed: AddressCheck = is_public_address,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._rules = UrlRules(
            http_allowed=http_allowed,
            allowed_domains=allowed_domains,
            denied_domains=denied_domains,
        )
        self._local = local
        self._connect_timeout_s = connect_timeout_s
        self._total_timeout_s = total_timeout_s
        self._max_redirects = max_redirects
        self._slots = FetchSlots(max_parallel, max_parallel_per_host or max_parallel)
        self._resolver = SystemResolver(max_parallel)
        backend = CheckedBackend(resolve or self._resolver.resolve, is_allowed)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl_context or httpx.create_ssl_context(trust_env=False),
            max_connections=max_parallel,
            keepalive_expiry=KEEPALIVE_S,
            network_backend=HeadBoundBackend(backend),
        )

    async def fetch(
        self, url: str, *, max_bytes: int, param: str, hold: Hold = hold_freely
    ) -> bytes:
        """The body of `url`; `hold` is told of its bytes as they come, and may refuse by raising.

        Raises: UrlNotAllowed; FetchFailed; MediaTooLarge if it has more than `max_bytes` bytes.
            Their text has no address and nothing that the other side sent.
        """
        try:
            if self._local is not None and is_file_url(url):
                data = await self._local.read(url, max_bytes=max_bytes)
                hold(len(data))
                return data
            async with asyncio.timeout(self._total_timeout_s):
                return await self._follow(url, max_bytes, hold)
        except MediaError as exc:
            exc.param = param
            raise
        except (TimeoutError, httpcore.TimeoutException) as exc:
            limits = f"{self._total_timeout_s:g} s ({self._connect_timeout_s:g} s to connect)"
            message = f"the media URL was not fetched within {limits}"
            raise FetchFailed(message, "fetch_timeout", param) from exc
        except (OSError, httpcore.NetworkError, httpcore.ProtocolError) as exc:
            message = "the connection to the host of the media URL failed"
            raise FetchFailed(message, "fetch_failed", param) from exc

    async def close(self) -> None:
        await self._pool.aclose()
        self._resolver.close()
        if self._local is not None:
            self._local.close()

    async def _follow(self, url: str, max_bytes: int, hold: Hold) -> bytes:
        for _ in range(self._max_redirects + 1):
            target = self._rules.parse(url)
            async with self._slots.take(target.raw_host, CURRENT_CLIENT.get()):
                answer = await self._get(target, max_bytes, hold)
            if isinstance(answer, bytes):
                return answer
            url = _join(target, answer.location)
        raise FetchFailed(f"the media URL redirects more than {self._max_redirects} times")

    async def _get(self, url: httpx.URL, max_bytes: int, hold: Hold) -> "bytes | _Redirect":
        request_url = httpcore.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        )
        headers = [
            (b"Host", url.netloc),
            (b"Accept", b"*/*"),
            (b"Accept-Encoding", b"identity"),
            (b"User-Agent", b"qwen3vl-serve"),
        ]
        timeouts = {"connect": self._connect_timeout_s}
        async with self._pool.stream(
            "GET", request_url, headers=headers, extensions={"timeout": timeouts}
        ) as response:
            stream = response.extensions["network_stream"]
            if isinstance(stream, HeadBound):  # not of an upgrade to another protocol
                stream.end_head()
            fields = {name.lower(): value for name, value in response.headers}
            if response.status in REDIRECTS and b"location" in fields:
                return _Redirect(fields[b"location"])
            if response.status != 200:
                raise FetchFailed(f"the media URL answered HTTP {response.status}")
            if fields.get(b"content-encoding", b"identity").lower() != b"identity":
                raise FetchFailed("the media URL answered with a content encoding")
            return await _read_body(response, fields.get(b"content-length"), max_bytes, hold)


@dataclass(frozen=True, slots=True)
class _Redirect:
    location: bytes


async def _read_body(
    response: httpcore.Response, content_length: bytes | None, max_bytes: int, hold: Hold
) -> bytes:
    """Raises: MediaTooLarge; FetchFailed for a body of very many tiny chunks."""
    if content_length is not None and int(content_length) > max_bytes:
        raise _too_large(max_bytes)
    chunks: list[bytes] = []
    num_bytes = 0
    async for chunk in response.aiter_stream():
        num_bytes += len(chunk)
        if num_bytes > max_bytes:
            raise _too_large(max_bytes)
        hold(len(chunk))
        chunks.append(chunk)
        if len(chunks) > MAX_TINY_CHUNKS + num_bytes // _TINY_BYTES:
            raise FetchFailed("the media URL answered with very many tiny chunks")
        if len(chunks) % _CHUNKS_PER_TURN == 0:
            await asyncio.sleep(0)  # chunks that came together are parsed without a wait
    return b"".join(chunks)


def _join(base: httpx.URL, location: bytes) -> str:
    """The target of a redirect, still unchecked."""
    try:
        reference = location.decode()
        if "\\" in reference:
            raise UrlNotAllowed("the media URL redirects to a malformed URL")
        return str(base.join(reference).copy_with(fragment=None))
    except (httpx.InvalidURL, ValueError) as exc:
        raise UrlNotAllowed("the media URL redirects to a malformed URL") from exc


def _too_large(max_bytes: int, param: str | None = None) -> MediaTooLarge:
    return MediaTooLarge(f"the media item exceeds {max_bytes} bytes", "media_too_large", param)


@dataclass(frozen=True, slots=True)
class DataUrl:
    """A decoded data URL; several payloads are the frames of a `video/jpeg`."""

    media_type: str
    payloads: tuple[bytes, ...]


def decode_data_url(url: str, *, max_bytes: int, max_frames: int, param: str) -> DataUrl:
    """Decode `data:image/png;base64,...`, or `data:video/jpeg;base64,frame,frame,...`.

    Args:
        url: also a `BodyDataUrl`.
        max_bytes: bound on the sum of the decoded payloads, checked before anything is decoded.
        max_frames: bound on the number of payloads.
    Raises: MediaTooLarge; UnsupportedMedia if the URL is not base64 or has no media type;
        MediaCorrupt if the base64 has anything but its alphabet and proper padding, or is empty.
    """
    header, _, body = url.partition(",")
    scheme, _, description = header.partition(":")
    media_type, *attributes = description.lower().split(";")
    if (
        scheme.lower() != "data"
        or "base64" not in attributes
        or not _MEDIA_TYPE.fullmatch(media_type)
    ):
        raise UnsupportedMedia(
            "data URLs must look like data:<media type>;base64,<data>", "invalid_data_url", param
        )
    decode = partial(
        _decode_payloads, media_type, max_bytes=max_bytes, max_frames=max_frames, param=param
    )
    if not isinstance(url, BodyDataUrl):
        return decode(body)
    try:
        return decode(url.payload)
    except MediaError:
        parsed = url.parse_payload()  # some clients escape slashes and plus signs
        if parsed is None:
            raise
    return decode(parsed)


def _decode_payloads(
    media_type: str, body: str | memoryview, *, max_bytes: int, max_frames: int, param: str
) -> DataUrl:
    encoded: Sequence[str | memoryview] = [body]
    if media_type == "video/jpeg":
        encoded = _text(body).split(",", max_frames)
    if len(encoded) > max_frames:
        raise MediaTooLarge(
            f"the data URL has more than {max_frames} frames", "too_many_frames", param
        )
    if sum(map(_decoded_length, encoded)) > max_bytes:
        raise _too_large(max_bytes, param)
    return DataUrl(media_type, tuple(_decode_base64(payload, param) for payload in encoded))


def _text(encoded: str | memoryview) -> str:
    return encoded if isinstance(encoded, str) else str(encoded, "latin-1")


def _decoded_length(encoded: str | memoryview) -> int:
    end = _text(encoded[-2:])
    num_padding = len(end) - len(end.rstrip("="))
    return len(encoded) * 3 // 4 - num_padding


def _decode_base64(encoded: str | memoryview, param: str) -> bytes:
    if not encoded:
        raise MediaCorrupt("the data URL is empty", "invalid_data_url", param)
    try:
        return pybase64.b64decode(encoded, validate=True)
    except ValueError as exc:
        raise MediaCorrupt("the data URL is not valid base64", "invalid_data_url", param) from exc
