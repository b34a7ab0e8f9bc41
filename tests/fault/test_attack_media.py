"""Hostile images and videos: a `MediaError` or pixels, never anything else."""

import asyncio
import os
import random
import signal
import struct
import threading
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from multimodal.errors import (
    MediaCorrupt,
    MediaError,
    MediaOverload,
    MediaTooLarge,
    UnsupportedMedia,
)
from multimodal.image import decode_image, probe_image
from multimodal.options import MediaLimits
from multimodal.video import VideoDecoder
from multimodal.video_file import check_video_file
from server.settings import Settings
from tests.fake_backend import Server, assert_error, image_part

MEDIA = Path(__file__).parent.parent / "media"
LIMITS = MediaLimits()


def encode(image_format: str, size: tuple[int, int] = (48, 32), **options: object) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", size, (120, 30, 90)).save(buffer, image_format, **options)
    return buffer.getvalue()


def make_png_chunk(name: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + checksum


def make_png_header(width: int, height: int) -> bytes:
    header = make_png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = make_png_chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + make_png_chunk(b"IEND", b"")


def make_jpeg_segment(marker: int, data: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", 2 + len(data)) + data


def make_tiff(*changed: tuple[int, int, int, int]) -> bytes:
    """A 64x64 grey TIFF; `changed` are (tag, type, count, value) that replace its own."""
    tags = {256: (4, 1, 64), 257: (4, 1, 64), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1)}
    tags |= {273: (4, 1, 200), 277: (3, 1, 1), 278: (4, 1, 64), 279: (4, 1, 4096)}
    tags |= {tag: fields for tag, *fields in changed}
    entries = b"".join(struct.pack("<HHII", tag, *tags[tag]) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + b"\x55" * 5000


def make_scan_bomb(num_scans: int) -> bytes:
    """A small progressive JPEG whose last scan is repeated: each costs a pass over all pixels."""
    jpeg = encode("JPEG", (64, 64), progressive=True)
    last_scan, end = jpeg.rfind(b"\xff\xc4", 0, jpeg.rfind(b"\xff\xda")), jpeg.rfind(b"\xff\xd9")
    return jpeg[:end] + jpeg[last_scan:end] * num_scans + jpeg[end:]


@pytest.mark.parametrize("size", [(60_000, 60_000), (2**31 - 1, 1), (2**31 - 1, 2**31 - 1)])
def test_a_png_that_claims_to_be_huge_is_refused_by_its_header(size: tuple[int, int]) -> None:
    with pytest.raises(MediaTooLarge):
        probe_image(make_png_header(*size))


@pytest.mark.parametrize(
    "tag",
    [
        (256, 4, 1, 2**32 - 1),  # width
        (273, 4, 2**32 - 1, 8),  # strips
        (277, 3, 1, 65535),  # samples of a pixel
        (278, 4, 1, 0),  # rows of a strip
        (259, 3, 1, 7),  # JPEG inside
        (259, 3, 1, 34712),  # JPEG 2000 inside
        (259, 3, 1, 999),  # no known compression
    ],
)
def test_a_tiff_with_a_hostile_tag_is_refused(tag: tuple[int, int, int, int]) -> None:
    assert decode_image(make_tiff(), LIMITS).shape == (64, 64, 3)
    with pytest.raises(MediaError):
        decode_image(make_tiff(tag), LIMITS)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_damaged_images_give_a_media_error_or_pixels(image_format: str) -> None:
    rng = random.Random(image_format)
    original = encode(image_format)
    for _ in range(60):
        damaged = bytearray(original)
        for _ in range(rng.choice((1, 5, 30))):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        if rng.random() < 0.3:
            damaged = damaged[: rng.randrange(1, len(damaged))]
        try:
            rgb = decode_image(bytes(damaged), LIMITS)
        except MediaError as error:
            assert len(error.message) < 200
        else:
            assert rgb.dtype == np.uint8


@pytest.mark.parametrize("image_format", ["JPEG2000", "EPS", "PPM", "ICO", "TGA", "PDF", "DDS"])
def test_other_formats_are_refused(image_format: str) -> None:
    with pytest.raises(UnsupportedMedia):
        decode_image(encode(image_format), LIMITS)


@pytest.mark.parametrize("use", [probe_image, lambda data: decode_image(data, LIMITS)])
def test_a_jpeg_of_very_many_scans_is_refused(use: Callable[[bytes], object]) -> None:
    assert decode_image(make_scan_bomb(0), LIMITS).shape == (64, 64, 3)
    with pytest.raises(MediaTooLarge) as caught:
        use(make_scan_bomb(2000))
    assert caught.value.code == "too_many_scans"


def test_scans_behind_a_false_end_of_the_image_are_counted() -> None:
    jpeg = make_scan_bomb(2000)
    first_scan = jpeg.index(b"\xff\xda")
    start = jpeg.rindex(b"\xff\xc4", 0, first_scan)
    hidden = jpeg[:start] + make_jpeg_segment(0xFE, b"\xff\xd9") + jpeg[start:]
    with pytest.raises(MediaTooLarge):
        probe_image(hidden)


def test_what_looks_like_scans_in_a_comment_or_behind_the_image_is_none() -> None:
    jpeg, looks = make_scan_bomb(0), b"\xff\xda" * 1000
    for data in (jpeg + looks, jpeg[:2] + make_jpeg_segment(0xFE, looks) + jpeg[2:]):
        assert np.array_equal(decode_image(data, LIMITS), decode_image(jpeg, LIMITS))


def make_many_parts(kind: str) -> bytes:
    """An image that takes a plugin of Pillow hundreds of thousands of tiny reads."""
    png, jpeg, chunk = encode("PNG"), encode("JPEG"), make_png_chunk(b"xxXx", b"")
    if kind == "chunks before the pixels of a PNG":
        return png[:33] + chunk * 200_000 + png[33:]
    if kind == "chunks behind the pixels of a PNG":
        return png[:-12] + chunk * 200_000 + png[-12:]
    if kind == "segments of a JPEG":
        return jpeg[:2] + make_jpeg_segment(0xFE, b"") * 200_000 + jpeg[2:]
    if kind == "Exif segments of a JPEG":
        return jpeg[:2] + make_jpeg_segment(0xE1, b"Exif\0\0a") * 1000 + jpeg[2:]
    if kind == "blocks of a GIF":
        gif = encode("GIF")
        image = gif.index(b"\x2c")
        return gif[:image] + b"\x21\xfe" + b"\x01a" * 400_000 + b"\0" + gif[image:]
    assert kind == "runs of a BMP"
    runs = b"\x01\0" * 400_000  # of one pixel each
    head = struct.pack("<IHHI", 1078 + len(runs), 0, 0, 1078)
    info = struct.pack("<IiiHHIIiiII", 40, 1000, 400, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + head + info + bytes(1024) + runs


@pytest.mark.parametrize(
    "kind",
    [
        "chunks before the pixels of a PNG",
        "chunks behind the pixels of a PNG",
        "segments of a JPEG",
        "Exif segments of a JPEG",
        "blocks of a GIF",
        "runs of a BMP",
    ],
)
def test_an_image_of_very_many_tiny_parts_is_refused(kind: str) -> None:
    with pytest.raises(MediaTooLarge) as caught:
        decode_image(make_many_parts(kind), LIMITS)
    assert caught.value.code == "image_too_complex"


async def test_media_that_take_too_long_are_given_up_as_overload() -> None:
    was_cancelled = []

    async def load(refs: object, max_tokens: int, tenant: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            was_cancelled.append(True)

    server = Server(settings=Settings(media={"load_timeout_s": 0.01}))
    server.pipeline.load = load  # type: ignore[assignment]
    response = await server.post([image_part()])
    assert "load_timeout_s (0.01)" in assert_error(response, 503, "media_timeout")
    assert response.headers["retry-after"] == "1"
    assert was_cancelled and server.engine.requests == []


async def test_media_that_find_no_memory_may_be_sent_again() -> None:
    async def load(refs: object, max_tokens: int, tenant: str) -> None:
        raise MediaOverload("no room", "overloaded")

    server = Server()
    server.pipeline.load = load  # type: ignore[assignment]
    response = await server.post([image_part()])
    assert assert_error(response, 503, "overloaded") == "no room"
    assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    "data",
    [
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"\x1a\x45\xdf\xa3 of some other type",
        encode("AVIF"),
        encode("GIF"),
        b"",
    ],
)
def test_what_is_no_video_container_never_meets_the_demuxer(data: bytes) -> None:
    with pytest.raises(UnsupportedMedia):
        check_video_file(data, LIMITS)


def test_a_playlist_with_the_first_bytes_of_an_mp4_is_not_followed() -> None:
    decoder = VideoDecoder(1, LIMITS)
    data = b"\0\0\0\x14ftyp\n#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"
    try:
        with pytest.raises(MediaCorrupt), decoder.open(data, threading.Event()):
            pass
    finally:
        decoder.close()


def test_a_worker_that_was_killed_while_idle_fails_no_request() -> None:
    decoder, data = VideoDecoder(1, LIMITS), (MEDIA / "bunny_3_frames.mp4").read_bytes()
    try:
        with decoder.open(data, threading.Event()) as stream:
            num_frames = len(list(stream.frames((0, 1, 2))))
            pid = stream._worker._process.pid
        assert num_frames == 3
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with decoder.open(data, threading.Event()) as stream:
            assert len(list(stream.frames((0, 1, 2)))) == 3
    finally:
        decoder.close()
