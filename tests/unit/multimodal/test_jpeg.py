from io import BytesIO

import numpy as np
import pytest
import simplejpeg
from media_files import encode, exif_with_orientation, gradient
from PIL import Image, ImageOps

from multimodal.jpeg import decode_jpeg, upright


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pillow_pixels(data: bytes) -> np.ndarray:
    with Image.open(BytesIO(data)) as image:
        return np.array(image)


def assert_equals_pillow(data: bytes, width: int, height: int) -> None:
    decoded = decode_jpeg(data, width, height)
    assert decoded is not None
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous and decoded.flags.writeable
    assert np.array_equal(decoded, pillow_pixels(data))


@pytest.mark.parametrize("size", [(1, 1), (7, 13), (17, 33), (321, 241)])
@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411"])
def test_pixels_equal_those_of_pillow(size: tuple[int, int], subsampling: str) -> None:
    for pixels in (noise(*size), gradient(*size)):
        for quality in (1, 30, 50, 75, 90, 100):
            data = simplejpeg.encode_jpeg(pixels, quality, "RGB", subsampling)
            assert_equals_pillow(data, *size)


@pytest.mark.parametrize(
    "options",
    [
        {"optimize": True},
        {"progressive": True},
        {"restart_marker_blocks": 3},
        {"restart_marker_rows": 1},
        {"icc_profile": bytes(100_000)},  # in two segments
        {"exif": exif_with_orientation(6)},
    ],
)
def test_pixels_of_every_kind_of_file_equal_those_of_pillow(options: dict[str, object]) -> None:
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        data = encode(gradient(321, 241), "JPEG", quality=90, subsampling=subsampling, **options)
        assert_equals_pillow(data, 321, 241)


def test_what_follows_the_image_is_ignored() -> None:
    assert_equals_pillow(encode(gradient(40, 30), "JPEG") + b"a video", 40, 30)


def test_a_size_other_than_that_of_the_header_is_declined() -> None:
    assert decode_jpeg(encode(gradient(40, 30), "JPEG"), 30, 40) is None


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_numbers_of_components_are_declined(mode: str) -> None:
    image = Image.fromarray(gradient(40, 30)).convert(mode)
    assert decode_jpeg(encode(image, "JPEG"), 40, 30) is None


def test_components_that_are_rgb_already_are_declined() -> None:
    assert decode_jpeg(encode(gradient(40, 30), "JPEG", keep_rgb=True), 40, 30) is None


def test_a_file_cut_anywhere_is_declined() -> None:
    data = encode(noise(40, 30), "JPEG")
    for end in range(len(data)):
        assert decode_jpeg(data[:end], 40, 30) is None


def test_a_file_that_the_decoder_warns_of_is_declined() -> None:
    data = encode(gradient(40, 30), "JPEG")
    assert decode_jpeg(data[:-2] + bytes(20) + data[-2:], 40, 30) is None


def test_bytes_that_are_no_jpeg_are_declined() -> None:
    for data in (b"", b"\xff\xd8", b"hello", encode(gradient(40, 30))):
        assert decode_jpeg(data, 40, 30) is None


@pytest.mark.parametrize("size", [(40, 30), (1, 1), (1, 5), (5, 1)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_as_pillow_does(size: tuple[int, int], orientation: int) -> None:
    pixels = noise(*size)
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = orientation
    turned = upright(pixels, orientation)
    assert turned.flags.c_contiguous and turned.flags.writeable
    assert np.array_equal(turned, np.asarray(ImageOps.exif_transpose(image)))


@pytest.mark.parametrize("orientation", [0, 9, -1])
def test_orientations_that_do_not_exist_change_nothing(orientation: int) -> None:
    assert np.array_equal(upright(noise(4, 3), orientation), noise(4, 3))
