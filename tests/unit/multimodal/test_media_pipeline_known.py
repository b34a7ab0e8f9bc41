"""The media pipeline with a cache: what is known is not decoded, what is not is decoded once."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import torch
from media_files import encode, gradient, make_video

from multimodal import pipeline as pipeline_module
from multimodal.errors import MediaCorrupt, MediaError, MediaOverload, TooManyTokens
from multimodal.items import FramesRef, ImageRef, LoadedMedia, PlacedItem, VideoRef, VisualItem
from multimodal.known_items import KnownItems
from multimodal.options import MediaLimits, MediaOptions
from multimodal.pipeline import MediaPipeline
from multimodal.preprocessor_config import PreprocessorConfig
from multimodal.video import VideoDecoder, VideoStream
from multimodal.vision_tier import Tier
from multimodal.vision_tiers import VisionTiers

CONFIG = PreprocessorConfig()
LIMITS = MediaLimits()
WAIT_S = 10
# of a frame list: 96x64, decoded, and two of them resized to the same
FRAMES_BYTES = 3 * 96 * 64 * 3


class WatchedItems(KnownItems):
    """Counts how many items were looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.num_asked = 0

    def was_submitted(self, key: str) -> bool:
        self.num_asked += 1
        return super().was_submitted(key)


@pytest.fixture
def known() -> WatchedItems:
    return WatchedItems()


@pytest_asyncio.fixture
async def pipeline(known: KnownItems) -> AsyncIterator[MediaPipeline]:
    pipeline = make_pipeline(known)
    yield pipeline
    await pipeline.close()


def make_pipeline(
    known: KnownItems | None = None, limits: MediaLimits = LIMITS, **options: Any
) -> MediaPipeline:
    return MediaPipeline(CONFIG, limits, namespace="weights", num_workers=2, known=known, **options)


def image_ref(width: int = 300, param: str = "image", **options: Any) -> ImageRef:
    return ImageRef(encode(gradient(width, 200)), MediaOptions(**options), param)


def frames_ref(numbers: Sequence[int], param: str = "frames") -> FramesRef:
    """A list of frames of which equal numbers are equal files."""
    frames = tuple(encode(gradient(96, 64) // (number + 1)) for number in numbers)
    return FramesRef(frames, MediaOptions(), param)


@pytest.fixture
def video(tmp_path: Path) -> bytes:
    """48 frames in two seconds."""
    return make_video(tmp_path)


def video_ref(data: bytes, param: str = "video", **options: Any) -> VideoRef:
    return VideoRef(data, MediaOptions(**options), param)


def submit(known: KnownItems, *items: VisualItem) -> None:
    """As when items are sent to the engine with their patches."""
    patches = torch.zeros(1, 1, dtype=torch.uint8)
    for item in items:
        sent = VisualItem(item.modality, item.key, item.grid_h, item.grid_w, patches)
        known.submit([PlacedItem(sent, 0, 1)])


def items_of(loaded: Sequence[LoadedMedia]) -> list[VisualItem]:
    return [item for media in loaded for item in media.items]


def have_patches(media: LoadedMedia) -> list[bool]:
    return [item.patches is not None for item in media.items]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The images and listed frames that are decoded from now on."""
    decoded: list[bytes] = []
    decode_image = pipeline_module.decode_image

    def counting(data: bytes, limits: MediaLimits) -> np.ndarray:
        decoded.append(data)
        return decode_image(data, limits)

    monkeypatch.setattr(pipeline_module, "decode_image", counting)
    return decoded


@pytest.fixture
def read_frames(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The frame numbers that are asked of video files from now on, one list per opened file."""
    asked: list[list[int]] = []
    frames = VideoStream.frames

    def watching(self: VideoStream, indices: Sequence[int]) -> Iterator[np.ndarray]:
        asked.append(list(indices))
        return frames(self, indices)

    monkeypatch.setattr(VideoStream, "frames", watching)
    return asked


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The video files that are opened from now on."""
    opened: list[bytes] = []
    open_video = VideoDecoder.open

    def watching(self: VideoDecoder, data: bytes, cancelled: threading.Event) -> Any:
        opened.append(data)
        return open_video(self, data, cancelled)

    monkeypatch.setattr(VideoDecoder, "open", watching)
    return opened


@contextmanager
def held_decoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, list[bytes]]]:
    """Images are not decoded before the event is set; the list has those that are begun."""
    release, begun = threading.Event(), list[bytes]()
    decode_image = pipeline_module.decode_image

    def waiting(data: bytes, limits: MediaLimits) -> np.ndarray:
        begun.append(data)
        assert release.wait(WAIT_S)
        return decode_image(data, limits)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline_module, "decode_image", waiting)
        try:
            yield release, begun
        finally:
            release.set()


async def asked(known: WatchedItems, count: int) -> None:
    """Until this many items were looked up; their work is joined in the same turn of the loop."""
    while known.num_asked < count:
        await asyncio.sleep(0.001)


# ---- what is known


async def test_known_image_is_not_decoded(
    pipeline: MediaPipeline, known: WatchedItems, decoded: list[bytes]
) -> None:
    (first,) = await pipeline.load([image_ref()])
    submit(known, *first.items)
    decoded.clear()
    (second,) = await pipeline.load([image_ref()])
    assert decoded == []
    assert have_patches(second) == [False]


async def test_known_item_differs_in_its_patches_only(
    pipeline: MediaPipeline, known: WatchedItems
) -> None:
    refs = [image_ref(), frames_ref(range(3))]
    first = await pipeline.load(refs)
    submit(known, *items_of(first))
    for before, after in zip(first, await pipeline.load(refs), strict=True):
        assert (after.modality, after.timestamps) == (before.modality, before.timestamps)
        for old, new in zip(before.items, after.items, strict=True):
            assert (new.modality, new.key) == (old.modality, old.key)
            assert (new.grid_h, new.grid_w) == (old.grid_h, old.grid_w)


async def test_an_image_that_was_only_loaded_is_not_known(
    pipeline: MediaPipeline, decoded: list[bytes]
) -> None:
    for _ in range(2):
        (media,) = await pipeline.load([image_ref()])
        assert have_patches(media) == [True]
    assert len(decoded) == 2


async def test_forgotten_image_is_decoded_again(
    pipeline: MediaPipeline, known: WatchedItems, decoded: list[bytes]
) -> None:
    (first,) = await pipeline.load([image_ref()])
    submit(known, *first.items)
    known.forget(first.items[0].key)
    (second,) = await pipeline.load([image_ref()])
    assert len(decoded) == 2
    assert torch.equal(second.items[0].patches, first.items[0].patches)


async def test_image_of_another_size_is_another_item(
    pipeline: MediaPipeline, known: WatchedItems, decoded: list[bytes]
) -> None:
    (first,) = await pipeline.load([image_ref()])
    submit(known, *first.items)
    known_one, new_one = await pipeline.load([image_ref(), image_ref(max_pixels=40_000)])
    assert len(decoded) == 2
    assert [have_patches(media) for media in (known_one, new_one)] == [[False], [True]]


async def test_known_images_stand_beside_new_ones(
    pipeline: MediaPipeline, known: WatchedItems, decoded: list[bytes]
) -> None:
    (first,) = await pipeline.load([image_ref()])
    submit(known, *first.items)
    decoded.clear()
    new = image_ref(299)
    loaded = await pipeline.load([new, image_ref(), new])
    assert decoded == [new.data]
    assert [have_patches(media) for media in loaded] == [[True], [False], [True]]


async def test_only_the_missing_pairs_of_a_frame_list_are_decoded(
    pipeline: MediaPipeline, known: WatchedItems, decoded: list[bytes]
) -> None:
    ref = frames_ref(range(6))
    (first,) = await pipeline.load([ref])
    submit(known, first.items[0], first.items[2])
    decoded.clear()
    (second,) = await pipeline.load([ref])
    assert have_patches(second) == [False, True, False]
    assert Counter(decoded) == Counter(ref.frames[2:4])
    assert torch.equal(second.items[1].patches, first.items[1].patches)


async def test_pairs_are_known_in_another_frame_list(
    pipeline: MediaPipeline, known: WatchedItems, decoded: list[bytes]
) -> None:
    (first,) = await pipeline.load([frames_ref(range(6))])
    submit(known, *first.items)
    decoded.clear()
    ref = frames_ref([4, 5, 5, 4, 0, 1])
    (second,) = await pipeline.load([ref])
    assert have_patches(second) == [False, True, False]
    assert Counter(decoded) == Counter(ref.frames[2:4])


async def test_only_the_missing_frames_of_a_video_file_are_decoded(
    pipeline: MediaPipeline, known: WatchedItems, video: bytes, read_frames: list[list[int]]
) -> None:
    ref = video_ref(video, num_frames=8)
    (first,) = await pipeline.load([ref])
    (all_frames,) = read_frames
    read_frames.clear()
    submit(known, first.items[0], first.items[3])
    (second,) = await pipeline.load([ref])
    assert have_patches(second) == [False, True, True, False]
    assert read_frames == [all_frames[2:6]]
    for index in (1, 2):
        assert torch.equal(second.items[index].patches, first.items[index].patches)


async def test_a_known_video_file_is_not_opened(
    pipeline: MediaPipeline, known: WatchedItems, video: bytes, opened: list[bytes]
) -> None:
    ref = video_ref(video, num_frames=4)
    (first,) = await pipeline.load([ref])
    submit(known, *first.items)
    opened.clear()
    (second,) = await pipeline.load([ref])
    assert opened == []
    assert have_patches(second) == [False, False]
    assert second.timestamps == first.timestamps


async def test_the_header_of_a_video_file_is_read_once(
    pipeline: MediaPipeline,
    known: WatchedItems,
    video: bytes,
    opened: list[bytes],
    read_frames: list[list[int]],
) -> None:
    await pipeline.load([video_ref(video, num_frames=4)])
    assert len(opened) == 2
    await pipeline.load([video_ref(video, num_frames=6)])
    assert len(opened) == 3
    assert len(read_frames) == 2


async def test_headers_are_dropped_after_a_while(
    pipeline: MediaPipeline, video: bytes, opened: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_module, "_MAX_VIDEO_HEADERS", 1)
    ref, other = video_ref(video, num_frames=2), video_ref(video + bytes(8), num_frames=2)
    await pipeline.load([ref])
    await pipeline.load([other])
    opened.clear()
    await pipeline.load([other])
    assert len(opened) == 1
    await pipeline.load([ref])
    assert len(opened) == 3


async def test_what_a_tier_has_is_not_decoded(tmp_path: Path, decoded: list[bytes]) -> None:
    tier = Tier("host", tmp_path / "host", "0a" * 32, 1 << 20, fsync=False)
    pipeline = make_pipeline(KnownItems(VisionTiers([tier])))
    ref = frames_ref(range(4))
    (first,) = await pipeline.load([ref])
    tier.store(first.items[1].key, torch.zeros(2, 8))
    decoded.clear()
    (second,) = await pipeline.load([ref])
    assert have_patches(second) == [True, False]
    assert Counter(decoded) == Counter(ref.frames[:2])
    await pipeline.close()


async def test_known_images_count_towards_the_context(
    pipeline: MediaPipeline, known: WatchedItems
) -> None:
    (media,) = await pipeline.load([image_ref()])
    submit(known, *media.items)
    with pytest.raises(TooManyTokens):
        await pipeline.load([image_ref()], max_tokens=69)


async def test_known_images_take_no_memory() -> None:
    known = KnownItems()
    pipeline = make_pipeline(known, MediaLimits(max_total_decoded_bytes=1))
    ref = image_ref()
    with pytest.raises(MediaOverload):
        await pipeline.load([ref])
    other = make_pipeline()
    submit(known, *items_of(await other.load([ref])))
    assert have_patches((await pipeline.load([ref]))[0]) == [False]
    await other.close()
    await pipeline.close()


# ---- several requests at the same time


async def test_many_loads_of_a_new_image_decode_it_once(
    pipeline: MediaPipeline, known: WatchedItems, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held_decoder(monkeypatch) as (release, begun):
        loads = [asyncio.create_task(pipeline.load([image_ref()])) for _ in range(32)]
        await asked(known, 32)
        release.set()
        loaded = await asyncio.gather(*loads)
    assert len(begun) == 1
    patches = {id(media.items[0].patches) for (media,) in loaded}
    assert len(patches) == 1
    assert all(media.items[0].patches is not None for (media,) in loaded)


async def test_loads_of_a_new_video_file_share_its_decoding(
    pipeline: MediaPipeline,
    known: WatchedItems,
    video: bytes,
    opened: list[bytes],
    read_frames: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release = threading.Event()
    make_patches = pipeline_module.item_patches

    def waiting(*args: Any) -> torch.Tensor:
        assert release.wait(WAIT_S)
        return make_patches(*args)

    monkeypatch.setattr(pipeline_module, "item_patches", waiting)
    ref = video_ref(video, num_frames=4)
    loads = [asyncio.create_task(pipeline.load([ref])) for _ in range(8)]
    await asked(known, 16)
    release.set()
    loaded = await asyncio.gather(*loads)
    assert len(opened) == 2  # for the header and for the frames
    assert len(read_frames) == 1
    assert all(have_patches(media) == [True, True] for (media,) in loaded)


async def test_requests_share_the_pairs_that_they_have_in_common(
    pipeline: MediaPipeline, known: WatchedItems, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = frames_ref(range(4)), frames_ref([2, 3, 4, 5])
    with held_decoder(monkeypatch) as (release, begun):
        loads = [asyncio.create_task(pipeline.load([ref])) for ref in refs]
        await asked(known, 4)
        release.set()
        (first,), (second,) = await asyncio.gather(*loads)
    assert len(begun) == 6
    assert first.items[1].patches is second.items[0].patches


async def test_a_cancelled_load_does_not_disturb_one_of_the_same_image(
    pipeline: MediaPipeline, known: WatchedItems, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held_decoder(monkeypatch) as (release, begun):
        cancelled, kept = (asyncio.create_task(pipeline.load([image_ref()])) for _ in range(2))
        await asked(known, 2)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        release.set()
        (media,) = await kept
    assert have_patches(media) == [True]
    assert len(begun) == 1


async def test_a_failed_load_does_not_disturb_one_of_the_same_image(
    pipeline: MediaPipeline, known: WatchedItems, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held_decoder(monkeypatch) as (release, begun):
        kept = asyncio.create_task(pipeline.load([image_ref()]))
        await asked(known, 1)
        refused = ImageRef(b"not an image", MediaOptions(), "bad")
        with pytest.raises(MediaError):
            await pipeline.load([image_ref(), refused])
        release.set()
        (media,) = await kept
    assert have_patches(media) == [True]
    assert len(begun) == 1


async def test_what_requests_share_is_counted_once(
    known: WatchedItems, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = make_pipeline(known, MediaLimits(max_total_decoded_bytes=FRAMES_BYTES))
    ref = frames_ref(range(2))
    with held_decoder(monkeypatch) as (release, _):
        loads = [asyncio.create_task(pipeline.load([ref])) for _ in range(3)]
        await asked(known, 3)
        with pytest.raises(MediaOverload):
            await pipeline.load([frames_ref([2, 3])])
        release.set()
        assert len(await asyncio.gather(*loads)) == 3
    assert len(await pipeline.load([frames_ref([2, 3])])) == 1  # all was given back
    await pipeline.close()


async def test_an_error_of_shared_work_names_each_request_s_own_part(
    pipeline: MediaPipeline, known: WatchedItems, monkeypatch: pytest.MonkeyPatch
) -> None:
    truncated = encode(gradient(300, 200), "JPEG")[:1500]
    params = ["messages[0]", "messages[1]", "messages[2]"]
    refs = [ImageRef(truncated, MediaOptions(), param) for param in params]
    with held_decoder(monkeypatch) as (release, begun):
        loads = [asyncio.create_task(pipeline.load([ref])) for ref in refs]
        await asked(known, 3)
        release.set()
        errors = await asyncio.gather(*loads, return_exceptions=True)
    assert len(begun) == 1
    assert [type(error) for error in errors] == [MediaCorrupt] * 3
    assert [error.param for error in errors if isinstance(error, MediaError)] == params


async def test_an_error_of_a_shared_header_names_each_request_s_own_part(
    pipeline: MediaPipeline, video: bytes
) -> None:
    params = ["messages[0]", "messages[1]"]
    loads = [pipeline.load([video_ref(video[:2000], param)]) for param in params]
    errors = await asyncio.gather(*loads, return_exceptions=True)
    assert [type(error) for error in errors] == [MediaCorrupt] * 2
    assert [error.param for error in errors if isinstance(error, MediaError)] == params


async def test_an_image_that_failed_is_tried_again(
    pipeline: MediaPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> np.ndarray:
        raise MediaCorrupt("the image cannot be decoded", "corrupt_image")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline_module, "decode_image", fail)
        with pytest.raises(MediaCorrupt):
            await pipeline.load([image_ref()])
    (media,) = await pipeline.load([image_ref()])
    assert have_patches(media) == [True]


# ---- patches that the engine asks for


@pytest.fixture
def refs(video: bytes) -> list[Any]:
    return [image_ref(), frames_ref(range(5)), video_ref(video, num_frames=6), image_ref(299)]


@pytest.mark.parametrize("positions", [[0], [1, 3], [4, 6], [0, 2, 5, 7], range(8)])
async def test_the_patches_asked_for_are_those_of_a_load(
    pipeline: MediaPipeline, known: WatchedItems, refs: list[Any], positions: Sequence[int]
) -> None:
    items = items_of(await pipeline.load(refs))
    submit(known, *items)
    wanted = {items[position].key: items[position].patches for position in positions}
    patches = await pipeline.load_patches(refs, list(wanted))
    assert patches.keys() == wanted.keys()
    assert all(torch.equal(patches[key], wanted[key]) for key in wanted)


async def test_nothing_but_what_is_asked_for_is_decoded(
    pipeline: MediaPipeline,
    refs: list[Any],
    decoded: list[bytes],
    read_frames: list[list[int]],
) -> None:
    items = items_of(await pipeline.load(refs))
    (all_frames,) = read_frames
    decoded.clear()
    read_frames.clear()
    await pipeline.load_patches(refs, [items[1].key, items[5].key])
    assert Counter(decoded) == Counter(refs[1].frames[:2])
    assert read_frames == [all_frames[2:4]]


async def test_patches_are_asked_for_under_the_tenant_s_keys(pipeline: MediaPipeline) -> None:
    ref = image_ref()
    (item,) = items_of(await pipeline.load([ref], tenant="5a17"))
    assert (await pipeline.load_patches([ref], [item.key], tenant="5a17")).keys() == {item.key}
    assert await pipeline.load_patches([ref], [item.key]) == {}


async def test_patches_that_cannot_be_had_name_their_part(
    pipeline: MediaPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = [image_ref(), image_ref(299, param="second")]
    items = items_of(await pipeline.load(refs))

    def fail(*args: Any) -> np.ndarray:
        raise MediaCorrupt("the image cannot be decoded", "corrupt_image")

    monkeypatch.setattr(pipeline_module, "decode_image", fail)
    with pytest.raises(MediaCorrupt) as error:
        await pipeline.load_patches(refs, [items[1].key])
    assert error.value.param == "second"


# ---- tenants


async def test_tenants_have_keys_of_their_own(pipeline: MediaPipeline, video: bytes) -> None:
    refs = [image_ref(), frames_ref(range(2)), video_ref(video, num_frames=2)]
    tenants = ["", "5a17", "5a18"]
    keys = [
        item.key
        for tenant in tenants
        for item in items_of(await pipeline.load(refs, tenant=tenant))
    ]
    assert len(set(keys)) == len(tenants) * len(refs)


async def test_what_one_tenant_has_sent_is_not_known_of_another(
    pipeline: MediaPipeline, known: WatchedItems
) -> None:
    (media,) = await pipeline.load([image_ref()], tenant="5a17")
    submit(known, *media.items)
    for tenant, is_new in (("5a17", False), ("5a18", True), ("", True)):
        (media,) = await pipeline.load([image_ref()], tenant=tenant)
        assert have_patches(media) == [is_new]


# ---- observations


class Observations:
    def __init__(self) -> None:
        self.stages: Counter[str] = Counter()
        self.seconds: list[float] = []

    def __call__(self, stage: str, seconds: float) -> None:
        self.stages[stage] += 1
        self.seconds.append(seconds)


async def test_every_stage_of_new_items_is_observed(video: bytes) -> None:
    observed = Observations()
    pipeline = make_pipeline(observe=observed)
    await pipeline.load([image_ref(), frames_ref(range(4)), video_ref(video, num_frames=6)])
    # an image, two pairs of listed frames, and a file that is opened once and has three pairs
    assert observed.stages == {
        "queue": 1 + 2 + 1,
        "open": 1,
        "decode": 1 + 2 + 3,
        "resize": 1 + 2 + 3,
    }
    assert min(observed.seconds) >= 0
    await pipeline.close()


async def test_known_items_are_not_observed() -> None:
    known, observed = KnownItems(), Observations()
    pipeline = make_pipeline(known, observe=observed)
    (media,) = await pipeline.load([image_ref()])
    submit(known, *media.items)
    observed.stages.clear()
    await pipeline.load([image_ref()])
    assert observed.stages == {}
    await pipeline.close()


class SubmittedMeanwhile(KnownItems):
    """While directories are looked into, another request submits what is looked for."""

    has_tiers = True  # type: ignore[assignment]

    def find_in_tiers(self, keys: Iterable[str]) -> set[str]:
        for key in keys:
            self._submitted[key] = None
        return set()


async def test_what_another_request_submits_meanwhile_is_not_decoded(decoded: list[bytes]) -> None:
    pipeline = make_pipeline(SubmittedMeanwhile())
    (media,) = await pipeline.load([image_ref()])
    assert have_patches(media) == [False]
    assert decoded == []
    await pipeline.close()
