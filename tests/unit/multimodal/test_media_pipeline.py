import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import torch
from media_files import encode, exif_with_orientation, frame_number, gradient, make_video

from multimodal import pipeline as pipeline_module
from multimodal.errors import (
    InvalidOption,
    MediaCorrupt,
    MediaError,
    MediaOverload,
    MediaTooLarge,
    TooManyTokens,
    UnsupportedMedia,
)
from multimodal.image import probe_image
from multimodal.items import FramesRef, ImageRef, VideoRef
from multimodal.keys import bytes_digest
from multimodal.options import MediaLimits, MediaOptions
from multimodal.pipeline import MediaPipeline
from multimodal.plan import VideoHeader
from multimodal.preprocessor_config import PreprocessorConfig
from multimodal.visual_items import image_item

CONFIG = PreprocessorConfig()
LIMITS = MediaLimits()


def make_pipeline(limits: MediaLimits = LIMITS) -> MediaPipeline:
    return MediaPipeline(CONFIG, limits, namespace="weights", num_workers=2)


@pytest_asyncio.fixture
async def pipeline() -> AsyncIterator[MediaPipeline]:
    pipeline = make_pipeline()
    yield pipeline
    await pipeline.close()


async def load_error(pipeline: MediaPipeline, *refs: Any) -> MediaError:
    with pytest.raises(MediaError) as error:
        await pipeline.load(refs)
    return error.value


def image_ref(
    width: int = 300, height: int = 200, param: str = "image", **options: Any
) -> ImageRef:
    return ImageRef(encode(gradient(width, height)), MediaOptions(**options), param)


def frames_ref(count: int, param: str = "frames", **options: Any) -> FramesRef:
    frames = tuple(encode(gradient(96, 64) // (index % 250 + 1)) for index in range(count))
    return FramesRef(frames, MediaOptions(**options), param)


def video_ref(folder: Path, param: str = "video", **options: Any) -> VideoRef:
    return VideoRef(make_video(folder), MediaOptions(**options), param)


async def test_nothing_gives_nothing(pipeline: MediaPipeline) -> None:
    assert await pipeline.load([]) == []


async def test_image_equals_the_item_made_from_its_pixels(pipeline: MediaPipeline) -> None:
    ref = image_ref()
    (media,) = await pipeline.load([ref])
    expected = image_item(
        gradient(300, 200), bytes_digest(ref.data), ref.options, CONFIG, LIMITS, "weights"
    )
    (item,) = media.items
    assert (media.modality, media.timestamps) == ("image", ())
    assert item.key == expected.key
    assert torch.equal(item.patches, expected.patches)


async def test_media_come_back_in_order(pipeline: MediaPipeline, tmp_path: Path) -> None:
    refs = [image_ref(), video_ref(tmp_path), frames_ref(4), image_ref(64, 256)]
    loaded = await pipeline.load(refs)
    assert [media.modality for media in loaded] == ["image", "video", "video", "image"]
    assert [len(media.items) for media in loaded] == [1, 2, 2, 1]
    assert loaded[3].items[0].grid_h > loaded[3].items[0].grid_w


async def test_video_file_is_sampled_and_resized(pipeline: MediaPipeline, tmp_path: Path) -> None:
    (media,) = await pipeline.load([video_ref(tmp_path, num_frames=3)])
    assert media.timestamps == pytest.approx(((0 + 24) / 48, 47 / 24))
    assert [(item.grid_h, item.grid_w) for item in media.items] == [(4, 6), (4, 6)]
    pairs = [item.patches.view(-1, 2, 768).numpy() for item in media.items]
    numbers = [[frame_number(pair[:, 0]), frame_number(pair[:, 1])] for pair in pairs]
    assert numbers == [[0, 24], [47, 47]]


async def test_windows_of_one_video_share_the_items_of_equal_frames(
    pipeline: MediaPipeline, tmp_path: Path
) -> None:
    whole, part = await pipeline.load(
        [video_ref(tmp_path, num_frames=48), video_ref(tmp_path, video_end=0.99, num_frames=24)]
    )
    assert [item.key for item in part.items] == [item.key for item in whole.items[:12]]


async def test_frame_list_uses_every_frame(pipeline: MediaPipeline) -> None:
    (media,) = await pipeline.load([frames_ref(3)])
    assert media.timestamps == (0.25, 1.0)
    first, last = (item.patches.view(-1, 2, 768) for item in media.items)
    assert not torch.equal(first[:, 0], first[:, 1])
    assert torch.equal(last[:, 0], last[:, 1])


async def test_frames_of_different_sizes_are_named(pipeline: MediaPipeline) -> None:
    frames = (encode(gradient(96, 64)), encode(gradient(96, 64)), encode(gradient(64, 96)))
    error = await load_error(pipeline, FramesRef(frames, MediaOptions(), "messages[0]"))
    assert isinstance(error, InvalidOption)
    assert error.message.startswith("frame 2 is 64x96, frame 0 is 96x64")
    assert (error.code, error.param) == ("frame_sizes_differ", "messages[0]")


async def test_frames_are_compared_after_orientation(pipeline: MediaPipeline) -> None:
    turned = encode(gradient(64, 96), exif=exif_with_orientation(6))
    frames = (encode(gradient(96, 64)), turned)
    (media,) = await pipeline.load([FramesRef(frames, MediaOptions(), "frames")])
    assert len(media.items) == 1


async def test_equal_images_are_decoded_once(
    pipeline: MediaPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = count_decoded(monkeypatch)
    refs = [image_ref(param="one"), image_ref(param="two"), image_ref(max_pixels=40_000)]
    first, second, smaller = await pipeline.load(refs)
    assert len(decoded) == 2
    assert first.items[0].patches is second.items[0].patches
    assert smaller.items[0].key != first.items[0].key


@pytest.mark.parametrize(
    ("data", "error_type"),
    [
        (b"not an image", UnsupportedMedia),
        (encode(gradient(300, 200), "JPEG")[:1500], MediaCorrupt),
    ],
)
async def test_error_names_its_part_of_the_request(
    pipeline: MediaPipeline, data: bytes, error_type: type[MediaError]
) -> None:
    bad = ImageRef(data, MediaOptions(), "messages[0].content[1]")
    error = await load_error(pipeline, image_ref(), bad)
    assert type(error) is error_type
    assert error.param == "messages[0].content[1]"


async def test_invalid_option_is_refused_before_the_media_are_read(
    pipeline: MediaPipeline,
) -> None:
    error = await load_error(pipeline, VideoRef(b"", MediaOptions(fps=-1.0), "video"))
    assert isinstance(error, InvalidOption)
    assert error.param == "video"


async def test_decoded_bytes_are_limited_over_the_whole_request() -> None:
    # Each 300x200 image holds 180000 bytes decoded and 320 * 224 * 3 = 215040 resized.
    pipeline = make_pipeline(MediaLimits(max_decoded_bytes=800_000))
    fitting = [image_ref(), image_ref(200, 300)]
    assert len(await pipeline.load(fitting)) == 2
    error = await load_error(pipeline, *fitting, image_ref(299, 200, param="third"))
    assert isinstance(error, MediaTooLarge)
    assert (error.code, error.param) == ("too_many_decoded_bytes", "third")
    await pipeline.close()


async def test_enlarging_counts_towards_the_decoded_bytes() -> None:
    pipeline = make_pipeline(MediaLimits(max_decoded_bytes=10_000_000))
    assert len(await pipeline.load([image_ref(32, 32)])) == 1
    error = await load_error(pipeline, image_ref(32, 32, min_pixels=4_000_000))
    assert error.code == "too_many_decoded_bytes"
    await pipeline.close()


async def test_decoded_bytes_of_a_video_are_checked_on_its_header(tmp_path: Path) -> None:
    pipeline = make_pipeline(MediaLimits(max_decoded_bytes=90_000))
    fitting = await pipeline.load([video_ref(tmp_path, num_frames=2)])
    assert len(fitting[0].items) == 1
    error = await load_error(pipeline, video_ref(tmp_path, num_frames=24))
    assert (error.code, error.param) == ("too_many_decoded_bytes", "video")
    await pipeline.close()


# what one 300x200 image holds: 180000 bytes decoded and 320 * 224 * 3 resized
IMAGE_BYTES = 180_000 + 215_040


async def test_video_that_is_another_size_when_decoded_is_refused(
    pipeline: MediaPipeline, tmp_path: Path
) -> None:
    """Only a worker that a file has taken over says one size first, and then another."""
    ref = video_ref(tmp_path)
    header = VideoHeader(num_frames=48, fps=24.0, width=96, height=32)
    pipeline._video_headers[bytes_digest(ref.data)] = header
    error = await load_error(pipeline, ref)
    assert isinstance(error, MediaCorrupt)
    assert (error.code, error.param) == ("corrupt_video", "video")


async def test_decoded_bytes_are_limited_over_all_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = make_pipeline(MediaLimits(max_total_decoded_bytes=2 * IMAGE_BYTES))
    async with held_load(pipeline, monkeypatch, image_ref()):
        assert len(await pipeline.load([image_ref(200, 300)])) == 1
        error = await load_error(pipeline, image_ref(299), image_ref(200, 300, param="second"))
        assert isinstance(error, MediaOverload)
        assert f"max_total_decoded_bytes ({2 * IMAGE_BYTES})" in error.message
        assert (error.code, error.param) == ("overloaded", "second")
        assert len(await pipeline.load([image_ref(299)])) == 1  # what failed holds nothing
    assert len(await pipeline.load([image_ref(), image_ref(200, 300)])) == 2
    await pipeline.close()


async def test_decoded_bytes_of_a_video_count_over_all_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # two frames of 96x64, resized to the same, and one as decoded
    total = IMAGE_BYTES + 3 * 96 * 64 * 3
    pipeline = make_pipeline(MediaLimits(max_total_decoded_bytes=total))
    async with held_load(pipeline, monkeypatch, image_ref()):
        assert len(await pipeline.load([video_ref(tmp_path, num_frames=2)])) == 1
        error = await load_error(pipeline, video_ref(tmp_path, num_frames=4))
        assert (type(error), error.param) == (MediaOverload, "video")
    assert len(await pipeline.load([video_ref(tmp_path, num_frames=4)])) == 1
    await pipeline.close()


async def test_cancelled_load_gives_its_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = make_pipeline(MediaLimits(max_total_decoded_bytes=IMAGE_BYTES))
    async with held_load(pipeline, monkeypatch, image_ref()) as (task, release):
        task.cancel()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(await pipeline.load([image_ref()])) == 1
    await pipeline.close()


@asynccontextmanager
async def held_load(
    pipeline: MediaPipeline, monkeypatch: pytest.MonkeyPatch, ref: ImageRef
) -> AsyncIterator[tuple[asyncio.Task[Any], threading.Event]]:
    """A load of one image that stands still in its decoder until the block ends."""
    loop = asyncio.get_running_loop()
    started, release = asyncio.Event(), threading.Event()
    decode_image = pipeline_module.decode_image

    def waiting(data: bytes, limits: MediaLimits) -> np.ndarray:
        if not started.is_set():
            loop.call_soon_threadsafe(started.set)
            assert release.wait(10)
        return decode_image(data, limits)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline_module, "decode_image", waiting)
        task = asyncio.create_task(pipeline.load([ref]))
        await started.wait()
        try:
            yield task, release
        finally:
            release.set()
            await asyncio.wait([task])


async def test_source_pixels_are_limited_over_the_whole_request() -> None:
    # 300 * 200 = 60000, and 6144 for each of the frames
    pipeline = make_pipeline(MediaLimits(max_request_source_pixels=60_000 + 10 * 6144))
    fitting = [image_ref(), image_ref(), frames_ref(10)]
    assert len(await pipeline.load(fitting)) == 3
    error = await load_error(pipeline, image_ref(), frames_ref(11, param="second"))
    assert isinstance(error, MediaTooLarge)
    assert (error.code, error.param) == ("too_many_source_pixels", "second")
    await pipeline.close()


def count_decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The images that the pipeline decodes from now on."""
    decoded: list[bytes] = []
    decode_image = pipeline_module.decode_image

    def counting(data: bytes, limits: MediaLimits) -> np.ndarray:
        decoded.append(data)
        return decode_image(data, limits)

    monkeypatch.setattr(pipeline_module, "decode_image", counting)
    return decoded


async def test_images_and_frames_over_the_context_are_refused_before_decoding(
    pipeline: MediaPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 320 * 224 / 32**2 = 70 tokens for each of two equal images; 2 * 96 * 64 / 32**2 = 12
    refs = [image_ref(), image_ref(), frames_ref(4, param="third")]
    loaded = await pipeline.load(refs, max_tokens=152)
    grids = [item.grid_h * item.grid_w // 4 for media in loaded for item in media.items]
    assert sum(grids) == 152
    decoded = count_decoded(monkeypatch)
    with pytest.raises(TooManyTokens, match="at least 152 tokens") as error:
        await pipeline.load(refs, max_tokens=151)
    assert (error.value.code, error.value.param) == ("context_length_exceeded", "third")
    assert decoded == []


async def test_video_over_the_context_is_refused_on_its_header(
    pipeline: MediaPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multimodal.video.VideoStream.frames", None)
    video = video_ref(tmp_path, num_frames=4)
    with pytest.raises(TooManyTokens, match="at least 24 tokens"):
        await pipeline.load([video, video], max_tokens=23)


async def test_cancelled_load_stops_reading_headers(
    pipeline: MediaPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    started, release, probed = asyncio.Event(), threading.Event(), []

    def waiting(data: bytes) -> None:
        probed.append(data)
        loop.call_soon_threadsafe(started.set)
        assert release.wait(10)
        return probe_image(data)

    monkeypatch.setattr("multimodal.probe.probe_image", waiting)
    task = asyncio.create_task(pipeline.load([frames_ref(50)]))
    await started.wait()
    task.cancel()
    for _ in range(10):  # the cancellation arrives
        await asyncio.sleep(0)
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(probed) < 50


async def test_decoding_runs_in_named_threads(
    pipeline: MediaPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []
    decode_image = pipeline_module.decode_image

    def naming(data: bytes, limits: MediaLimits) -> np.ndarray:
        names.append(threading.current_thread().name)
        return decode_image(data, limits)

    monkeypatch.setattr(pipeline_module, "decode_image", naming)
    await pipeline.load([image_ref()])
    assert [name.startswith("media-image") for name in names] == [True]


async def test_failure_ends_the_rest_of_the_request_first(
    pipeline: MediaPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, running = threading.Event(), []
    decode_image = pipeline_module.decode_image

    def slow(data: bytes, limits: MediaLimits) -> np.ndarray:
        running.append(data)
        try:
            if len(running) == 1:
                started.set()
            return decode_image(data, limits)
        finally:
            running.remove(data)

    def failing(*args: Any) -> None:
        assert started.wait(10)
        raise MediaCorrupt("the image cannot be decoded", "corrupt_image")

    monkeypatch.setattr(pipeline_module, "decode_image", slow)
    monkeypatch.setattr(pipeline_module, "item_patches", failing)
    await load_error(pipeline, frames_ref(50), image_ref())
    assert running == []


async def test_cancelled_load_ends_its_work_before_it_returns(
    pipeline: MediaPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    started, decoded = asyncio.Event(), []
    decode_image = pipeline_module.decode_image

    def announcing(data: bytes, limits: MediaLimits) -> np.ndarray:
        loop.call_soon_threadsafe(started.set)
        rgb = decode_image(data, limits)
        decoded.append(data)
        return rgb

    monkeypatch.setattr(pipeline_module, "decode_image", announcing)
    task = asyncio.create_task(pipeline.load([frames_ref(700)]))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    count = len(decoded)
    assert count < 700
    monkeypatch.undo()
    await pipeline.load([frames_ref(4)])
    assert len(decoded) == count
