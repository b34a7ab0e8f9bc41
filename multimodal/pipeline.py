"""The media of one request: from encoded bytes to visual items, off the event loop.

Files are hashed and headers read first: that tells every item's key, so that an item which the
vision cache knows is never decoded, and it bounds what one request may make the server hold. The
other items are decoded, resized and cut into patches concurrently, each once for all requests that
need it at the same time.
"""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from multimodal.decoded_bytes import DecodedBytes
from multimodal.errors import MediaError, TooManyTokens
from multimodal.fair_threads import FairThreads
from multimodal.image import decode_image
from multimodal.items import ImageRef, LoadedMedia, MediaRef, VideoRef, VisualItem
from multimodal.known_items import KnownItems
from multimodal.options import MediaLimits
from multimodal.plan import VideoHeader, check_decoded_bytes, check_request_source_pixels
from multimodal.preprocessor_config import PreprocessorConfig
from multimodal.probe import Identity, PlannedMedia, ProbedMedia, plan_media, probe_media
from multimodal.shared_jobs import SharedJob, SharedJobs
from multimodal.video import VideoDecoder
from multimodal.visual_items import item_patches

Stage = Literal["queue", "open", "decode", "resize"]
Observe = Callable[[Stage, float], None]
Patches = dict[str, torch.Tensor]  # by the items' keys

_MAX_VIDEO_HEADERS = 10_000


class MediaPipeline:
    """Loads the media of requests with a fixed number of threads and video processes.

    To be used from one event loop.

    Args:
        namespace: keeps content keys of other weights apart (see `multimodal.keys`).
        num_workers: threads for images, and as many for videos, each with its decoding process.
        known: items whose patches need not be made.
        observe: told the seconds that images and videos spent waiting for a thread, being opened
            (video files), decoded, and resized and cut; called from threads.
    """

    def __init__(
        self,
        config: PreprocessorConfig,
        limits: MediaLimits,
        *,
        namespace: str,
        num_workers: int,
        known: KnownItems | None = None,
        observe: Observe = lambda stage, seconds: None,
    ) -> None:
        self._config = config
        self._limits = limits
        self._namespace = namespace
        self._known = known or KnownItems()
        self._observe = observe
        decoded_bytes = DecodedBytes(limits.max_total_decoded_bytes)
        self._jobs = SharedJobs(decoded_bytes.take, decoded_bytes.give_back)
        self._video_headers: OrderedDict[str, VideoHeader] = OrderedDict()  # by the file's digest
        self._decoder = VideoDecoder(num_workers, limits)
        # One torch thread each: work is spread over items, and the engine needs the other cores.
        start_thread = partial(torch.set_num_threads, 1)
        self._image_threads = FairThreads(num_workers, "media-image", start_thread)
        self._video_threads = FairThreads(num_workers, "media-video", start_thread)

    async def load(
        self, refs: Sequence[MediaRef], max_tokens: int | None = None, *, tenant: str = ""
    ) -> list[LoadedMedia]:
        """Load all media of a request, in order. Known items come without patches.

        Args:
            max_tokens: placeholders that the prompt has room for; more are refused as soon as the
                headers tell, before anything is decoded.
            tenant: requests of different tenants share no items.
        Raises: MediaError with the failing ref's `param`. What only this request waited for has
            ended by then; so it has when the call is cancelled.
        """
        async with self._request() as jobs:
            planned = await self._plan_all(refs, tenant, jobs)
            self._check_request(planned, max_tokens)
            missing = await self._find_missing(planned)
            patches = await self._decode_all(planned, missing, jobs)
        return [_with_patches(media.outline, patches) for media in planned]

    async def load_patches(
        self, refs: Sequence[MediaRef], keys: Collection[str], *, tenant: str = ""
    ) -> Patches:
        """The patches of those items of a request that the engine needs after all."""
        async with self._request() as jobs:
            planned = await self._plan_all(refs, tenant, jobs)
            return await self._decode_all(planned, set(keys), jobs)

    async def close(self) -> None:
        """End the video processes and wait for the threads."""
        await asyncio.to_thread(self._decoder.close)
        for threads in (self._image_threads, self._video_threads):
            await asyncio.to_thread(threads.shutdown, cancel_futures=True)

    @asynccontextmanager
    async def _request(self) -> AsyncIterator[list[SharedJob]]:
        """The jobs of one request, which are let go at its end, however that comes about."""
        jobs: list[SharedJob] = []
        try:
            yield jobs
        finally:
            await self._jobs.release(jobs)

    # ---- headers

    async def _plan_all(
        self, refs: Sequence[MediaRef], tenant: str, jobs: list[SharedJob]
    ) -> list[PlannedMedia]:
        """What is known of each ref before it is decoded; equal refs give the same object."""
        probing = [
            self._jobs.join(object(), 0, self._image_threads, partial(self._probe, ref))
            for ref in refs
        ]
        jobs += probing
        probed: list[ProbedMedia] = await _results(zip(refs, probing, strict=True))
        headers = await self._video_headers_of(probed, jobs)
        planned: dict[Identity, PlannedMedia] = {}
        namespace = f"{self._namespace}/{tenant}" if tenant else self._namespace
        for media in probed:
            if media.identity not in planned:
                with _errors_about(media.ref):
                    planned[media.identity] = plan_media(
                        media, headers.get(media.digests[0]), self._config, self._limits, namespace
                    )
        return [planned[media.identity] for media in probed]

    def _probe(self, ref: MediaRef, job: SharedJob) -> ProbedMedia:
        return probe_media(ref, self._limits, job.check_cancelled)

    async def _video_headers_of(
        self, probed: Sequence[ProbedMedia], jobs: list[SharedJob]
    ) -> dict[str, VideoHeader]:
        """By digest. Only those of files that were not seen before are read."""
        known: dict[str, VideoHeader] = {}
        reading: dict[str, tuple[MediaRef, SharedJob]] = {}
        for media in probed:
            ref, digest = media.ref, media.digests[0]
            if not isinstance(ref, VideoRef) or digest in reading:
                continue
            header = self._video_headers.get(digest)
            if header is not None:
                known[digest] = header
                continue
            work = partial(self._read_video_header, ref.data)
            job = self._jobs.join(("header", digest), 0, self._video_threads, work)
            jobs.append(job)
            reading[digest] = (ref, job)
        known |= dict(zip(reading, await _results(reading.values()), strict=True))
        self._remember(known)
        return known

    def _read_video_header(self, data: bytes, job: SharedJob) -> VideoHeader:
        with self._decoder.open(data, job.cancelled) as stream:
            stream.finish()
            return stream.header

    def _remember(self, headers: dict[str, VideoHeader]) -> None:
        for digest, header in headers.items():
            self._video_headers[digest] = header
            self._video_headers.move_to_end(digest)
        while len(self._video_headers) > _MAX_VIDEO_HEADERS:
            self._video_headers.popitem(last=False)

    def _check_request(self, planned: Sequence[PlannedMedia], max_tokens: int | None) -> None:
        """What one request may ask for, whether or not it must be decoded.

        Raises: MediaTooLarge, TooManyTokens.
        """
        num_bytes = num_source_pixels = num_tokens = 0
        for media, count in Counter(planned).items():
            num_bytes += media.num_bytes(self._config)
            num_source_pixels += media.num_source_pixels
            num_tokens += media.num_tokens(self._config) * count
            with _errors_about(media.ref):
                check_decoded_bytes(num_bytes, self._limits)
                check_request_source_pixels(num_source_pixels, self._limits)
                if max_tokens is not None and num_tokens > max_tokens:
                    raise TooManyTokens(
                        f"images and videos take at least {num_tokens} tokens; "
                        f"the context has room for {max_tokens}",
                        "context_length_exceeded",
                    )

    async def _find_missing(self, planned: Sequence[PlannedMedia]) -> set[str]:
        """Keys of the items that are not known."""
        keys = {item.key for media in planned for item in media.outline.items}
        missing = {key for key in keys if not self._known.was_submitted(key)}
        if missing and self._known.has_tiers:  # a look into directories may take time
            missing -= await asyncio.to_thread(self._known.find_in_tiers, missing)
            # another request may have made and submitted them meanwhile
            missing = {key for key in missing if not self._known.was_submitted(key)}
        return missing

    # ---- pixels

    async def _decode_all(
        self, planned: Sequence[PlannedMedia], missing: set[str], jobs: list[SharedJob]
    ) -> Patches:
        running: list[tuple[MediaRef, SharedJob]] = []
        for media in dict.fromkeys(planned):
            indices = [i for i, item in enumerate(media.outline.items) if item.key in missing]
            with _errors_about(media.ref):
                for job in self._start(media, indices):
                    jobs.append(job)
                    running.append((media.ref, job))
        patches: Patches = {}
        for decoded in await _results(running):
            patches |= decoded
        return patches

    def _start(self, media: PlannedMedia, indices: Sequence[int]) -> Iterator[SharedJob]:
        """Decode some items of a media part: an image or two frames a job, a video file at once."""
        if not indices:
            return
        item_bytes = media.item_bytes(self._config)
        items = media.outline.items
        if isinstance(media.ref, VideoRef):
            key = (media.digest, *(items[index].key for index in indices))
            num_bytes = media.frame_bytes + len(indices) * item_bytes
            work = partial(self._decode_video, media, indices, time.perf_counter())
            yield self._jobs.join(key, num_bytes, self._video_threads, work)
            return
        num_bytes = media.frame_bytes + item_bytes
        for index in indices:
            work = partial(self._decode_item, media, index, time.perf_counter())
            yield self._jobs.join(items[index].key, num_bytes, self._image_threads, work)
            num_bytes = item_bytes  # the threads are few, so that few frames are raw at once

    def _decode_item(
        self, media: PlannedMedia, index: int, submitted_s: float, job: SharedJob
    ) -> Patches:
        self._observe("queue", time.perf_counter() - submitted_s)
        ref = media.ref
        assert not isinstance(ref, VideoRef)
        files = (ref.data,) if isinstance(ref, ImageRef) else ref.frames
        with self._timed("decode"):
            rgb = [
                decode_image(files[frame], self._limits)
                for frame in _unique(media.item_frames[index])
            ]
        patches: Patches = {}
        self._add_patches(patches, rgb, media.outline.items[index])
        return patches

    def _decode_video(
        self, media: PlannedMedia, indices: Sequence[int], submitted_s: float, job: SharedJob
    ) -> Patches:
        self._observe("queue", time.perf_counter() - submitted_s)
        assert isinstance(media.ref, VideoRef)
        patches: Patches = {}
        wanted = [_unique(media.item_frames[index]) for index in indices]
        started_s = time.perf_counter()
        with self._decoder.open(media.ref.data, job.cancelled) as stream:
            self._observe("open", time.perf_counter() - started_s)
            media.check_frame(stream.header)
            decoded = stream.frames([frame for frames in wanted for frame in frames])
            for index, frames in zip(indices, wanted, strict=True):
                with self._timed("decode"):
                    rgb = [next(decoded) for _ in frames]
                self._add_patches(patches, rgb, media.outline.items[index])
            for _ in decoded:
                pass
        return patches

    def _add_patches(self, patches: Patches, rgb: Sequence[np.ndarray], item: VisualItem) -> None:
        with self._timed("resize"):
            patches[item.key] = item_patches(rgb, item, self._config)

    @contextmanager
    def _timed(self, stage: Stage) -> Iterator[None]:
        started_s = time.perf_counter()
        yield
        self._observe(stage, time.perf_counter() - started_s)


def _unique(frames: Iterable[int]) -> list[int]:
    """Without the repetitions that fill a temporal patch."""
    return list(dict.fromkeys(frames))


def _with_patches(outline: LoadedMedia, patches: Patches) -> LoadedMedia:
    items = (replace(item, patches=patches.get(item.key)) for item in outline.items)
    return replace(outline, items=tuple(items))


async def _results(running: Iterable[tuple[MediaRef, SharedJob]]) -> list[Any]:
    """The results in order, or the first failure."""
    waiting = [_result(ref, job) for ref, job in running]
    return [await waiting[0]] if len(waiting) == 1 else await asyncio.gather(*waiting)


async def _result(ref: MediaRef, job: SharedJob) -> Any:
    with _errors_about(ref):
        return await job.result()


@contextmanager
def _errors_about(ref: MediaRef) -> Iterator[None]:
    """Errors raised within say which part of the request they are about."""
    try:
        yield
    except MediaError as error:
        raise error.about(ref.param) from error
