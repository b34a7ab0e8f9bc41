"""The media of one request: from encoded bytes to visual items, off the event loop.

Headers of all items are read first, so that what one request may make the server hold is checked
before anything is decoded; then items are decoded, resized and cut into patches concurrently.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from multimodal.decoded_bytes import DecodedBytes
from multimodal.errors import MediaError, TooManyTokens
from multimodal.image import decode_image, probe_image
from multimodal.items import FramesRef, ImageRef, LoadedMedia, MediaRef, VideoRef
from multimodal.options import MediaLimits
from multimodal.plan import (
    check_decoded_bytes,
    check_request_source_pixels,
    plan_frame_list,
    plan_video,
)
from multimodal.preprocessor_config import PreprocessorConfig
from multimodal.probe import (
    Identity,
    MediaCost,
    ProbedMedia,
    check_frame_size,
    clip_cost,
    probe_media,
)
from multimodal.video import DecodingCancelled, VideoDecoder
from multimodal.visual_items import (
    frame_list_identities,
    image_item,
    temporal_patches,
    video_identities,
)

T = TypeVar("T")


class MediaPipeline:
    """Loads the media of requests with a fixed number of threads and video processes.

    Args:
        namespace: keeps content keys of other weights or tenants apart (see `multimodal.keys`).
        num_workers: threads for images, and as many for videos, each with its decoding process.
    """

    def __init__(
        self,
        config: PreprocessorConfig,
        limits: MediaLimits,
        *,
        namespace: str,
        num_workers: int,
    ) -> None:
        self._config = config
        self._limits = limits
        self._namespace = namespace
        self._decoded_bytes = DecodedBytes(limits.max_total_decoded_bytes)
        self._decoder = VideoDecoder(num_workers, limits)
        # One torch thread each: work is spread over items, and the engine needs the other cores.
        start_thread = partial(torch.set_num_threads, 1)
        self._image_threads = ThreadPoolExecutor(num_workers, "media-image", start_thread)
        self._video_threads = ThreadPoolExecutor(num_workers, "media-video", start_thread)

    async def load(
        self, refs: Sequence[MediaRef], max_tokens: int | None = None
    ) -> list[LoadedMedia]:
        """Load all media of a request, in order; equal ones are processed once.

        Args:
            max_tokens: placeholders that the prompt has room for; more are refused as soon as the
                headers tell, before anything is decoded.
        Raises: MediaError with the failing ref's `param`. Whatever else of the request is under way
            has ended by then; so it has when the call is cancelled.
        """
        with closing(_Request(self._limits, max_tokens, self._decoded_bytes)) as request:
            return await self._load_all(refs, request)

    async def close(self) -> None:
        """End the video processes and wait for the threads."""
        await asyncio.to_thread(self._decoder.close)
        for threads in (self._image_threads, self._video_threads):
            await asyncio.to_thread(threads.shutdown, cancel_futures=True)

    async def _load_all(self, refs: Sequence[MediaRef], request: "_Request") -> list[LoadedMedia]:
        probed = await request.results(
            [self._image_threads.submit(self._probe, ref, request) for ref in refs]
        )
        counts = Counter(media.identity for media in probed)
        unique: dict[Identity, ProbedMedia] = {}
        for media in probed:
            unique.setdefault(media.identity, media)
        for identity, media in unique.items():
            with _errors_about(media.ref):
                request.charge(media.cost, counts[identity])
        loaded = await request.results(
            [self._submit(media, counts[identity], request) for identity, media in unique.items()]
        )
        by_identity = dict(zip(unique, loaded, strict=True))
        return [by_identity[media.identity] for media in probed]

    def _probe(self, ref: MediaRef, request: "_Request") -> ProbedMedia:
        with _errors_about(ref):
            return probe_media(ref, self._config, self._limits, request.check_cancelled)

    def _submit(self, media: ProbedMedia, count: int, request: "_Request") -> Future[LoadedMedia]:
        is_video_file = isinstance(media.ref, VideoRef)
        threads = self._video_threads if is_video_file else self._image_threads
        return threads.submit(self._load, media, count, request)

    def _load(self, media: ProbedMedia, count: int, request: "_Request") -> LoadedMedia:
        ref, digests = media.ref, media.digests
        with _errors_about(ref):
            if isinstance(ref, ImageRef):
                return self._load_image(ref, digests[0])
            if isinstance(ref, FramesRef):
                return self._load_frames(ref, digests, request)
            return self._load_video(ref, digests[0], count, request)

    def _load_image(self, ref: ImageRef, digest: str) -> LoadedMedia:
        rgb = decode_image(ref.data, self._limits)
        item = image_item(rgb, digest, ref.options, self._config, self._limits, self._namespace)
        return LoadedMedia("image", (item,))

    def _load_frames(
        self, ref: FramesRef, digests: Sequence[str], request: "_Request"
    ) -> LoadedMedia:
        first = probe_image(ref.frames[0])
        plan = plan_frame_list(
            len(ref.frames), first.height, first.width, ref.options, self._config, self._limits
        )

        def frames() -> Iterator[np.ndarray]:
            for index, data in enumerate(ref.frames):
                request.check_cancelled()
                rgb = decode_image(data, self._limits)
                check_frame_size(index, rgb.shape[1], rgb.shape[0], first)
                yield rgb

        identities = frame_list_identities(digests, plan)
        return temporal_patches(frames(), plan, "frames", identities, self._config, self._namespace)

    def _load_video(
        self, ref: VideoRef, digest: str, count: int, request: "_Request"
    ) -> LoadedMedia:
        with self._decoder.open(ref.data, request.cancelled) as stream:
            header = stream.header
            plan = plan_video(header, ref.options, self._config, self._limits)
            request.charge(clip_cost(header.width, header.height, plan, self._config), count)
            frames, identities = stream.frames(plan.indices), video_identities(digest, plan)
            return temporal_patches(
                frames, plan, "video", identities, self._config, self._namespace
            )


class _Request:
    """What the threads that work for one request share: its account and its end."""

    def __init__(
        self, limits: MediaLimits, max_tokens: int | None, decoded_bytes: DecodedBytes
    ) -> None:
        self.cancelled = threading.Event()
        self._limits = limits
        self._max_tokens = max_tokens
        self._decoded_bytes = decoded_bytes
        self._num_bytes = self._num_source_pixels = self._num_tokens = 0
        self._lock = threading.Lock()

    def charge(self, cost: MediaCost, count: int) -> None:
        """Account for an item that is loaded once and stands `count` times in the prompt.

        Raises: MediaTooLarge, TooManyTokens, MediaOverload, DecodingCancelled.
        """
        with self._lock:
            self.check_cancelled()  # nothing is taken once the request is closed
            self._num_source_pixels += cost.num_source_pixels
            self._num_tokens += cost.num_tokens * count
            check_decoded_bytes(self._num_bytes + cost.num_bytes, self._limits)
            check_request_source_pixels(self._num_source_pixels, self._limits)
            if self._max_tokens is not None and self._num_tokens > self._max_tokens:
                raise TooManyTokens(
                    f"images and videos take at least {self._num_tokens} tokens; "
                    f"the context has room for {self._max_tokens}",
                    "context_length_exceeded",
                )
            self._decoded_bytes.take(cost.num_bytes)
            self._num_bytes += cost.num_bytes

    def close(self) -> None:
        """Give back what was taken."""
        self.cancelled.set()
        with self._lock:
            self._decoded_bytes.give_back(self._num_bytes)

    def check_cancelled(self) -> None:
        if self.cancelled.is_set():
            raise DecodingCancelled

    async def results(self, futures: Sequence[Future[T]]) -> list[T]:
        """The results in order. If one fails or the caller is cancelled, the others end first."""
        try:
            return await asyncio.gather(*map(asyncio.wrap_future, futures))
        except BaseException:
            self.cancelled.set()
            for future in futures:
                future.cancel()
            await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
            raise


@contextmanager
def _errors_about(ref: MediaRef) -> Iterator[None]:
    """Errors raised within say which part of the request they are about."""
    try:
        yield
    except MediaError as error:
        error.param = ref.param
        raise
