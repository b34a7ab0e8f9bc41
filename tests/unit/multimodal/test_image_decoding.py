import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from media_files import encode, exif_with_orientation, gradient
from PIL import Image, ImageOps

import multimodal.image
from multimodal.errors import MediaCorrupt, MediaError, MediaTooLarge, UnsupportedMedia
from multimodal.image import ImageHeader, decode_image, probe_image, rgb_pixels
from multimodal.jpeg import decode_jpeg
from multimodal.options import MediaLimits

LIMITS = MediaLimits()
LOSSLESS = {"WEBP": {"lossless": True}}


def png_chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"")


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "TIFF"])
def test_lossless_formats_decode_exactly(format: str) -> None:
    pixels = gradient(40, 30)
    data = encode(pixels, format, **LOSSLESS.get(format, {}))
    decoded = decode_image(data, LIMITS)
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous and decoded.flags.writeable
    assert np.array_equal(decoded, pixels)
    assert probe_image(data) == ImageHeader(format, 40, 30)


@pytest.mark.parametrize("format", ["JPEG", "AVIF", "GIF"])
def test_lossy_formats_decode_closely(format: str) -> None:
    pixels = gradient(40, 30)
    data = encode(pixels, format, **({} if format == "GIF" else {"quality": 95}))
    difference = np.abs(decode_image(data, LIMITS).astype(int) - pixels.astype(int))
    assert difference.mean() < 6
    assert probe_image(data) == ImageHeader(format, 40, 30)


def test_multi_picture_jpeg_gives_its_first_picture() -> None:
    first = Image.fromarray(gradient(40, 30))
    second = Image.new("RGB", (40, 30))
    data = encode(first, "MPO", save_all=True, append_images=[second], quality=95)
    assert probe_image(data) == ImageHeader("JPEG", 40, 30)
    assert np.abs(decode_image(data, LIMITS).astype(int) - gradient(40, 30)).mean() < 6


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_animation_gives_its_first_frame(format: str) -> None:
    red, blue = (Image.new("RGB", (32, 16), color) for color in ("red", "blue"))
    decoded = decode_image(encode(red, format, save_all=True, append_images=[blue]), LIMITS)
    assert decoded.shape == (16, 32, 3)
    assert np.abs(decoded.astype(int) - (255, 0, 0)).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "JPEG", "AVIF"])
def test_exif_orientation_is_applied(format: str, orientation: int) -> None:
    options = {"exif": exif_with_orientation(orientation), **LOSSLESS.get(format, {})}
    data = encode(gradient(40, 30), format, **options)
    upright = Image.fromarray(gradient(40, 30))
    upright.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(upright))
    decoded = decode_image(data, LIMITS)
    assert decoded.shape == expected.shape
    tolerance = 6 if format in ("JPEG", "AVIF") else 0
    assert np.abs(decoded.astype(int) - expected.astype(int)).mean() <= tolerance
    header = probe_image(data)
    assert (header.height, header.width) == expected.shape[:2]


def test_orientation_behind_the_pixels_of_a_png_is_applied() -> None:
    data = encode(gradient(40, 30), "PNG")
    end = data.index(b"IEND") - 4
    late = png_chunk(b"eXIf", exif_with_orientation(6).tobytes().removeprefix(b"Exif\0\0"))
    rotated = data[:end] + late + data[end:]
    assert probe_image(rotated) == ImageHeader("PNG", 30, 40)
    assert np.array_equal(decode_image(rotated, LIMITS), np.rot90(gradient(40, 30), -1))


def test_damaged_exif_is_ignored() -> None:
    data = encode(gradient(40, 30), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert probe_image(data) == ImageHeader("PNG", 40, 30)


def rgba_image(alpha: int) -> Image.Image:
    return Image.new("RGBA", (8, 4), (200, 100, 0, alpha))


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_transparency_is_composited_on_white(format: str) -> None:
    data = encode(rgba_image(0), format, **LOSSLESS.get(format, {}))
    assert (decode_image(data, LIMITS) == 255).all()


def test_half_transparency_is_mixed_with_white() -> None:
    decoded = decode_image(encode(rgba_image(128)), LIMITS)
    assert np.abs(decoded.astype(int) - (227, 177, 127)).max() <= 1


def test_grey_with_alpha_is_composited_on_white() -> None:
    image = Image.new("LA", (8, 4), (10, 0))
    assert (decode_image(encode(image), LIMITS) == 255).all()


def test_transparent_palette_index_becomes_white() -> None:
    image = Image.new("P", (8, 4), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    for format in ("PNG", "GIF"):
        assert (decode_image(encode(image, format, transparency=1), LIMITS) == 255).all()


def test_transparent_color_of_an_rgb_png_becomes_white() -> None:
    image = Image.new("RGB", (8, 4), (1, 2, 3))
    assert (decode_image(encode(image, transparency=(1, 2, 3)), LIMITS) == 255).all()


@pytest.mark.parametrize(
    ("mode", "premultiplied", "expected"),
    [("RGBa", (100, 50, 0, 128), (227, 177, 127)), ("La", (100, 128), (227, 227, 227))],
)
def test_premultiplied_alpha_is_composited_on_white(
    mode: str, premultiplied: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    decoded = rgb_pixels(Image.new(mode, (8, 4), premultiplied))
    assert np.abs(decoded.astype(int) - expected).max() <= 1


def test_palette_with_alpha_is_composited_on_white() -> None:
    image = Image.new("PA", (8, 4), (0, 0))
    assert (rgb_pixels(image) == 255).all()


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(format: str) -> None:
    levels = np.array([[0, 257, 32768, 65535]], np.uint16)
    decoded = decode_image(encode(Image.fromarray(levels), format), LIMITS)
    assert decoded[0, :, 0].tolist() == [0, 1, 128, 255]
    assert (decoded[..., :1] == decoded).all()


def test_one_bit_image_is_black_and_white() -> None:
    image = Image.new("1", (8, 4), 0)
    image.putpixel((0, 0), 1)
    decoded = decode_image(encode(image), LIMITS)
    assert decoded[0, 0].tolist() == [255, 255, 255]
    assert decoded[0, 1].tolist() == [0, 0, 0]


def test_palette_image_is_looked_up() -> None:
    image = Image.new("P", (8, 4), 1)
    image.putpalette([0, 0, 0, 9, 8, 7])
    assert (decode_image(encode(image), LIMITS) == (9, 8, 7)).all()


def test_grey_image_has_three_equal_channels() -> None:
    assert (decode_image(encode(Image.new("L", (8, 4), 77)), LIMITS) == 77).all()


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_is_converted(format: str) -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    decoded = decode_image(encode(image, format), LIMITS)
    assert np.abs(decoded.astype(int) - (255, 0, 0)).max() < 6


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_channels_are_unsupported(mode: str) -> None:
    with pytest.raises(UnsupportedMedia, match="32 bits"):
        decode_image(encode(Image.new(mode, (8, 4)), "TIFF"), LIMITS)


@pytest.mark.parametrize("format", ["PPM", "ICO", "TGA", "JPEG2000", "EPS", "PDF"])
def test_formats_outside_the_list_are_unsupported(format: str) -> None:
    data = encode(gradient(32, 32), format)
    for read in (probe_image, lambda data: decode_image(data, LIMITS)):
        with pytest.raises(UnsupportedMedia) as error:
            read(data)
        assert error.value.code == "unsupported_image"


@pytest.mark.parametrize("data", [b"", b"\x00", b"hello, world" * 10, b"<svg></svg>"])
def test_bytes_that_are_no_image_are_unsupported(data: bytes) -> None:
    with pytest.raises(UnsupportedMedia):
        probe_image(data)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_image_cut_within_its_first_half_is_refused(format: str) -> None:
    rng = np.random.default_rng(0)
    data = encode(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), format)
    for cut in range(0, len(data) // 2, max(1, len(data) // 40)):
        with pytest.raises((MediaCorrupt, UnsupportedMedia)):
            decode_image(data[:cut], LIMITS)


def test_jpeg_cut_in_its_pixels_is_corrupt() -> None:
    data = encode(gradient(200, 200), "JPEG")
    with pytest.raises(MediaCorrupt) as error:
        decode_image(data[: len(data) * 2 // 3], LIMITS)
    assert error.value.message == "the image cannot be decoded"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_damaged_bytes_raise_nothing_but_media_errors(format: str) -> None:
    data = encode(gradient(48, 48), format)
    rng = np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(data)
        for position in rng.integers(0, len(data), 8):
            damaged[position] = rng.integers(0, 256)
        try:
            decode_image(bytes(damaged), LIMITS)
        except MediaError as error:
            assert error.message in (
                "the image cannot be decoded",
                "the image has too many pixels",
            ) or error.code in (
                "unsupported_image",
                "too_many_source_pixels",
                "aspect_ratio_too_large",
            )


def test_bomb_is_refused_on_its_header() -> None:
    with pytest.raises(MediaTooLarge, match=r"9000x9000 .*max_source_pixels \(64000000\)"):
        decode_image(png_of_size(9000, 9000), LIMITS)


def test_bomb_beyond_pillows_own_limit_is_too_large() -> None:
    for read in (probe_image, lambda data: decode_image(data, LIMITS)):
        with pytest.raises(MediaTooLarge) as error:
            read(png_of_size(60_000, 60_000))
        assert error.value.code == "too_many_source_pixels"


def test_pillows_limit_is_left_alone() -> None:
    before = Image.MAX_IMAGE_PIXELS
    decode_image(encode(gradient(40, 30)), LIMITS)
    assert before == Image.MAX_IMAGE_PIXELS


def test_long_thin_image_is_refused() -> None:
    with pytest.raises(MediaTooLarge) as error:
        decode_image(encode(gradient(201, 1)), LIMITS)
    assert error.value.code == "aspect_ratio_too_large"


def test_too_many_bytes_are_refused_before_they_are_read() -> None:
    with pytest.raises(MediaTooLarge, match=r"100 bytes exceeds max_image_bytes \(99\)"):
        decode_image(bytes(100), MediaLimits(max_image_bytes=99))


@pytest.mark.parametrize("size", [(1, 1), (17, 33), (640, 480)])
@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {"subsampling": "4:4:4"}),
        ("RGB", {"subsampling": "4:2:2"}),
        ("RGB", {"subsampling": "4:2:0"}),
        ("RGB", {"progressive": True}),
        ("RGB", {"restart_marker_rows": 1}),
        ("RGB", {"keep_rgb": True}),
        ("L", {}),
        ("CMYK", {}),
    ],
)
def test_jpeg_pixels_equal_those_of_pillow(
    size: tuple[int, int], mode: str, options: dict[str, object]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise).convert(mode), "JPEG", quality=90, **options)
    with Image.open(BytesIO(data)) as image:
        expected = np.array(image.convert("RGB"))
    assert np.array_equal(decode_image(data, LIMITS), expected)


def count_direct(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each JPEG that is handed to the faster decoder was decoded by it."""
    was_decoded: list[bool] = []

    def decode(data: bytes, width: int, height: int) -> np.ndarray | None:
        rgb = decode_jpeg(data, width, height)
        was_decoded.append(rgb is not None)
        return rgb

    monkeypatch.setattr(multimodal.image, "decode_jpeg", decode)
    return was_decoded


def outcome(data: bytes) -> tuple[object, ...]:
    try:
        rgb = decode_image(data, LIMITS)
    except MediaError as error:
        return type(error), error.code, error.message
    return rgb.shape, rgb.tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_plain_jpeg_is_decoded_directly(
    orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encode(gradient(40, 30), "JPEG", exif=exif_with_orientation(orientation))
    with Image.open(BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    was_decoded = count_direct(monkeypatch)
    assert np.array_equal(decode_image(data, LIMITS), expected)
    assert was_decoded == [True]


def test_the_first_picture_of_several_is_decoded_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Image.fromarray(gradient(40, 30)), Image.new("RGB", (40, 30))
    data = encode(first, "MPO", save_all=True, append_images=[second])
    with Image.open(BytesIO(data)) as image:
        expected = np.asarray(image)
    was_decoded = count_direct(monkeypatch)
    assert np.array_equal(decode_image(data, LIMITS), expected)
    assert was_decoded == [True]


def test_a_jpeg_of_several_scans_or_other_colors_is_left_to_pillow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    was_decoded = count_direct(monkeypatch)
    image = Image.fromarray(gradient(40, 30))
    decode_image(encode(image, "JPEG", progressive=True), LIMITS)
    for mode in ("L", "CMYK"):
        decode_image(encode(image.convert(mode), "JPEG"), LIMITS)
    assert was_decoded == []


def test_a_jpeg_too_large_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    was_decoded = count_direct(monkeypatch)
    with pytest.raises(MediaTooLarge):
        decode_image(encode(gradient(40, 30), "JPEG"), MediaLimits(max_source_pixels=1000))
    assert was_decoded == []


def test_damaged_jpegs_end_as_they_do_with_pillow_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    jpegs = [
        encode(gradient(48, 40), "JPEG", quality=90, subsampling="4:4:4"),
        encode(gradient(33, 17), "JPEG", restart_marker_blocks=2),
        encode(gradient(48, 40), "JPEG", exif=exif_with_orientation(6)),
    ]
    files = []
    for number in range(600):
        damaged = bytearray(jpegs[number % len(jpegs)])
        for position in rng.integers(2, len(damaged), rng.choice([1, 3])):
            damaged[position] = rng.integers(0, 256)
        if number % 4 == 0:
            position = int(rng.integers(2, len(damaged)))
            damaged[position:position] = bytes((0xFF, rng.integers(0, 256)))
        files.append(
            bytes(damaged[: rng.integers(2, len(damaged))] if number % 5 == 0 else damaged)
        )
    was_decoded = count_direct(monkeypatch)
    outcomes = [outcome(data) for data in files]
    assert any(was_decoded) and not all(was_decoded)
    monkeypatch.setattr(multimodal.image, "decode_jpeg", lambda *_: None)
    assert outcomes == [outcome(data) for data in files]


def jpeg_segment(marker: int, data: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(data) + 2).to_bytes(2, "big") + data


def with_scans(jpeg: bytes, num_scans: int) -> bytes:
    """The only scan of a JPEG, repeated."""
    start, end = jpeg.index(b"\xff\xda"), jpeg.rindex(b"\xff\xd9")
    return jpeg[:end] + jpeg[start:end] * num_scans + jpeg[end:]


def of_one_component(jpeg: bytes) -> bytes:
    """Its scan's header, changed to one component: what a scan of many looks like."""
    start = jpeg.index(b"\xff\xda")
    length = int.from_bytes(jpeg[start + 2 : start + 4], "big")
    return (
        jpeg[:start] + jpeg_segment(0xDA, b"\x01\x01\x00\x00\x3f\x00") + jpeg[start + 2 + length :]
    )


def progressive_of_many_scans() -> bytes:
    jpeg = encode(gradient(64, 48), "JPEG", progressive=True)
    end = jpeg.rindex(b"\xff\xd9")
    last = jpeg.rindex(b"\xff\xda", 0, end)
    return jpeg[:end] + jpeg[last:end] * 200 + jpeg[end:]


def test_scans_behind_a_scan_of_all_components_are_never_decoded() -> None:
    jpeg = encode(gradient(64, 48), "JPEG")
    assert probe_image(with_scans(jpeg, 200)) == ImageHeader("JPEG", 64, 48)
    with pytest.raises(MediaCorrupt):
        decode_image(with_scans(jpeg, 200), LIMITS)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        jpeg_segment(0xFE, b"a comment"),
        b"\xff\xd0",  # has no length, so what follows is a segment again
        b"\xff\xff",
        b"junk",
        jpeg_segment(0xC0, b"\x08\x00\x10\x00\x10\x01\x01\x11\x00"),
        jpeg_segment(0xFE, b"") * 2000,
    ],
)
@pytest.mark.parametrize("kind", ["progressive", "one component at a time"])
def test_scans_are_counted_where_several_are_decoded(header: bytes, kind: str) -> None:
    data = progressive_of_many_scans()
    if kind != "progressive":
        data = with_scans(of_one_component(encode(gradient(64, 48), "JPEG")), 200)
    with pytest.raises(MediaTooLarge) as error:
        probe_image(data[:2] + header + data[2:])
    assert error.value.code == "too_many_scans"


def test_a_marker_without_length_hides_no_scans() -> None:
    """What comes next is no length, at the end of which another header might wait."""
    scans = progressive_of_many_scans()
    hidden = scans[:2] + b"\xff\xd0" + scans[2:]
    no_length = int.from_bytes(scans[2:4], "big")
    decoy = encode(gradient(64, 48), "JPEG")[2:]
    with pytest.raises(MediaTooLarge):
        probe_image(hidden.ljust(2 + 2 + no_length, b"\0") + decoy)


def test_exif_segments_are_counted_as_such_only() -> None:
    jpeg = encode(gradient(40, 30), "JPEG")
    looks = jpeg[:2] + jpeg_segment(0xFE, b"Exif\0\0" * 1000) + jpeg[2:] + b"Exif\0\0" * 1000
    assert np.array_equal(decode_image(looks, LIMITS), decode_image(jpeg, LIMITS))
    with pytest.raises(MediaTooLarge) as error:
        probe_image(jpeg[:2] + jpeg_segment(0xE1, b"Exif\0\0a") * 101 + jpeg[2:])
    assert error.value.code == "image_too_complex"
