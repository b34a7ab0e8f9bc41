"""Files of images, videos and cache entries near valid ones: pixels, or an error of ours."""

import json
import os
import tempfile
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from multimodal.errors import MediaCorrupt, MediaError, UnsupportedMedia
from multimodal.image import FORMATS, decode_image, probe_image
from multimodal.jpeg import decode_jpeg
from multimodal.options import MediaLimits
from multimodal.video_file import check_video_file
from multimodal.vision_entry import DamagedEntry, read_entry, write_entry
from multimodal.vision_index import HEX, walk
from tests.fault.fuzz.media_seeds import ENTRY_KEY, ENTRY_NAMESPACE, IMAGES, make_entry
from tests.fault.fuzz.mutations import mutated_bytes

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of what is wrong with a file
LIMITS = MediaLimits(max_source_pixels=1_000_000, max_image_bytes=100_000)
PLAYLISTS = (
    b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
    b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    b"<?xml version='1.0'?><MPD><BaseURL>http://127.0.0.1/</BaseURL></MPD>",
    b"RIFF\0\0\0\0AVI LIST",
    b"\x89PNG\r\n\x1a\n",
    b"[playlist]\nFile1=/etc/passwd\n",
    b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n",
)


@pytest.mark.parametrize("kind", IMAGES)
def test_a_changed_image_is_pixels_or_refused(kind: str) -> None:
    @given(mutated_bytes([IMAGES[kind]]))
    def check(data: bytes) -> None:
        try:
            header = probe_image(data)
        except MediaError as error:
            assert len(error.message) < 200
            with pytest.raises(MediaError):
                decode_image(data, LIMITS)
            return
        assert header.format in FORMATS and min(header.width, header.height) >= 1
        try:
            pixels = decode_image(data, LIMITS)
        except MediaError as error:
            assert len(error.message) < 200
        else:
            assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
            assert pixels.shape == (header.height, header.width, 3)

    check()


@given(mutated_bytes([data for kind, data in IMAGES.items() if kind.startswith("JPEG")]))
def test_a_changed_jpeg_has_the_pixels_of_pillow_or_is_left_to_it(data: bytes) -> None:
    try:
        with Image.open(BytesIO(data), formats=["JPEG"]) as image:
            size = image.size
            if size[0] * size[1] > LIMITS.max_source_pixels:
                return
            image.load()
            expected = np.asarray(image.convert("RGB")) if image.mode == "RGB" else None
    except Exception:
        return
    pixels = decode_jpeg(data, *size)
    if pixels is not None and expected is not None:
        assert np.array_equal(pixels, expected)


@given(st.binary(max_size=64) | st.sampled_from(PLAYLISTS))
def test_only_containers_are_let_near_a_demuxer(data: bytes) -> None:
    with suppress(UnsupportedMedia, MediaCorrupt):
        check_video_file(data, LIMITS)
        assert data[4:8] in (b"ftyp", b"moov", b"mdat") or data[:4] == b"\x1a\x45\xdf\xa3"


@given(mutated_bytes(PLAYLISTS))
def test_a_playlist_with_a_few_bytes_changed_is_no_container(data: bytes) -> None:
    if data[4:8] in (b"ftyp", b"moov", b"mdat"):
        return
    with pytest.raises(UnsupportedMedia):
        check_video_file(data, LIMITS)


@given(mutated_bytes([make_entry(torch.float32), make_entry(torch.bfloat16)]))
def test_a_changed_cache_entry_is_damaged(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "entry")
        Path(path).write_bytes(data)
        try:
            read = read_entry(path, ENTRY_NAMESPACE, ENTRY_KEY, max_bytes=1 << 20)
        except DamagedEntry:
            return
        assert data in (make_entry(torch.float32), make_entry(torch.bfloat16))
        assert read.ndim == 2


# With the right checksum: what only somebody who can write to the directory could do.
headers = st.fixed_dictionaries(
    {},
    optional={
        "namespace": st.just(ENTRY_NAMESPACE) | st.text(max_size=4),
        "key": st.just(ENTRY_KEY) | st.integers(),
        "shape": st.lists(st.integers(-1, 8) | st.integers() | st.text(max_size=1), max_size=3)
        | st.none(),
        "dtype": st.sampled_from(["float32", "uint8", "int64", "", None, 1]),
        "more": st.none(),
    },
)


@given(headers | st.lists(st.integers(), max_size=2), st.integers(0, 130))
def test_a_forged_header_is_damaged_or_right(header: Any, num_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "entry")
        Path(path).write_bytes(make_entry(header=json.dumps(header).encode(), payload=num_bytes))
        with suppress(DamagedEntry):
            read = read_entry(path, ENTRY_NAMESPACE, ENTRY_KEY, max_bytes=1 << 20)
            assert list(read.shape) == header["shape"]
            assert read.numel() * read.dtype.itemsize == num_bytes


@given(
    st.integers(0, 5),
    st.integers(0, 5),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.uint8]),
)
def test_an_entry_comes_back_as_it_was(rows: int, columns: int, dtype: torch.dtype) -> None:
    embedding = torch.arange(rows * columns).reshape(rows, columns).to(dtype)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "entry")
        with open(path, "wb") as file:
            write_entry(file, "ab", "cd", embedding)
        assert torch.equal(read_entry(path, "ab", "cd", max_bytes=1 << 20), embedding)


names = st.sampled_from(
    ["ab", "AB", "..x", "a", "ab.vision", ".x.tmp", "g0", "0123.vision"]
) | st.text("ab0.vision-", min_size=1, max_size=9).filter(lambda name: name not in (".", ".."))


@given(st.lists(st.tuples(names, names, names), max_size=4))
def test_only_entries_are_found_in_a_directory(paths: list[tuple[str, str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for parts in paths:
            path = Path(folder, *parts)
            with suppress(OSError):  # one name cannot be a file and a folder
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"x")
        for name, file in walk(f"{folder}/"):
            namespace, first, key = name.split("/")
            assert HEX.fullmatch(namespace) and HEX.fullmatch(first)
            assert HEX.fullmatch(key.removesuffix(".vision")) and file.num_bytes == 1
