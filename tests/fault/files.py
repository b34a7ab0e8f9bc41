"""Images and videos that are not what they say, made in code, each with its answer's status."""

import base64
import gzip
import random
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

MEDIA = Path(__file__).parents[1] / "media"
BAD_OPTIONS, TOO_LARGE, UNSUPPORTED, CORRUPT = 400, 413, 415, 422
# What a decoder makes of a few wrong bits may be an image or not, but never an internal error.
ANY = (200, 400, 413, 415, 422)
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
_U32, _U16 = 2**32 - 1, 2**16 - 1
_SECRET_PATH = b"/etc/passwd"


@dataclass(frozen=True, slots=True)
class BadFile:
    """One content part of a user's message.

    Attributes:
        name: of the test.
        make: the part.
        statuses: that may answer it; 200 is for what is odd and harmless.
    """

    name: str
    make: Callable[[], dict[str, Any]]
    statuses: tuple[int, ...]


def bad_image(
    name: str, make: Callable[[], bytes], *statuses: int, media_type: str = "image/png"
) -> BadFile:
    return BadFile(name, lambda: image_part(make(), media_type), statuses)


def bad_video(
    name: str, make: Callable[[], bytes], *statuses: int, media_type: str = "video/mp4"
) -> BadFile:
    return BadFile(name, lambda: video_part(make(), media_type), statuses)


def bad_frames(name: str, make: Callable[[], Sequence[bytes]], *statuses: int) -> BadFile:
    return BadFile(name, lambda: frames_part(make()), statuses)


def data_url(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def image_part(data: bytes, media_type: str = "image/png") -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_url(data, media_type)}}


def video_part(data: bytes, media_type: str = "video/mp4") -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": data_url(data, media_type)}}


def frames_part(frames: Sequence[bytes]) -> dict[str, Any]:
    return {"type": "video", "video": [data_url(frame, "image/png") for frame in frames]}


def flipped(data: bytes, seed: int, num_bits: int, first: int = 0) -> bytes:
    """Some bits of the bytes from `first` on are others."""
    rng, changed = random.Random(seed), bytearray(data)
    for _ in range(num_bits):
        changed[rng.randrange(first, len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


# ---- images


def encode(image_format: str, size: tuple[int, int] = (48, 32), **options: Any) -> bytes:
    buffer = BytesIO()
    noise = random.Random(0).randbytes(size[0] * size[1] * 3)
    Image.frombytes("RGB", size, noise).save(buffer, image_format, **options)
    return buffer.getvalue()


def encode_flat(image_format: str, size: tuple[int, int], **options: Any) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", size, (120, 30, 90)).save(buffer, image_format, **options)
    return buffer.getvalue()


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def make_png(width: int, height: int, pixels: bytes, *chunks: bytes) -> bytes:
    """An RGB PNG; `pixels` is what the deflate stream holds, `chunks` stand before it."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = png_chunk(b"IDAT", zlib.compress(pixels, 9))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + data + png_chunk(b"IEND", b"")


def png_with(*chunks: bytes) -> bytes:
    return make_png(32, 32, bytes((32 * 3 + 1) * 32), *chunks)


def png_text_bomb(name: bytes, head: bytes) -> bytes:
    return png_with(png_chunk(name, head + zlib.compress(bytes(100_000_000), 9)))


def png_with_many_texts() -> bytes:
    text = zlib.compress(bytes(1_000_000), 9)
    return png_with(*(png_chunk(b"zTXt", b"k%d\0\0" % index + text) for index in range(100)))


def png_exif(data: bytes) -> bytes:
    return png_with(png_chunk(b"eXIf", data))


def endless_exif() -> bytes:
    """A directory of very many entries that all point to the directory."""
    entries = b"".join(struct.pack("<HHII", tag, 5, _U32, 8) for tag in range(65_535))
    return b"II*\0" + struct.pack("<IH", 8, 65_535) + entries + struct.pack("<I", 8)


def animated_png() -> bytes:
    """It says that it has 2**31 - 1 frames."""
    return png_with(png_chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)))


def jpeg_of_size(width: int, height: int) -> bytes:
    """A small JPEG whose frame header says another size."""
    jpeg = encode("JPEG")
    frame = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:frame] + struct.pack(">HH", height, width) + jpeg[frame + 4 :]


def jpeg_segment(marker: int, data: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", 2 + len(data)) + data


def jpeg_with(*segments: bytes) -> bytes:
    jpeg = encode("JPEG")
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def scan_bomb() -> bytes:
    """A progressive JPEG whose last scan, a pass over all pixels, is there 5,000 times."""
    jpeg = encode_flat("JPEG", (256, 256), progressive=True)
    last_scan, end = jpeg.rfind(b"\xff\xc4", 0, jpeg.rfind(b"\xff\xda")), jpeg.rfind(b"\xff\xd9")
    return jpeg[:end] + jpeg[last_scan:end] * 5000 + jpeg[end:]


def profile_bomb() -> bytes:
    """255 parts of a colour profile, of 64 KB each."""
    head = b"ICC_PROFILE\0"
    parts = (head + bytes((index, 255)) + bytes(65_000) for index in range(1, 256))
    return jpeg_with(*(jpeg_segment(0xE2, part) for part in parts))


def gif_of_size(width: int, height: int) -> bytes:
    gif = encode("GIF")
    return gif[:6] + struct.pack("<HH", width, height) + gif[10:]


def gif_of_frames(num_frames: int) -> bytes:
    gif = encode("GIF")
    frame = gif[gif.index(b"\x2c", 13 + 3 * 256) : -1]
    return gif[:-1] + frame * num_frames + b";"


def webp_of_canvas(side: int) -> bytes:
    """An extended WebP with an animation whose canvas is large and whose frame is small."""
    chunk = encode("WEBP", lossless=True)[12:]
    canvas = (side - 1).to_bytes(3, "little")
    extended = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + canvas * 2
    animation = b"ANIM" + struct.pack("<I", 6) + bytes(6)
    sides = (47).to_bytes(3, "little") + (31).to_bytes(3, "little")
    frame = bytes(6) + sides + bytes(4) + chunk
    body = b"WEBP" + extended + animation + b"ANMF" + struct.pack("<I", len(frame)) + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


def animated(image_format: str, num_frames: int) -> bytes:
    frames = [Image.new("RGB", (32, 32), (index % 256, 0, 0)) for index in range(num_frames)]
    buffer = BytesIO()
    frames[0].save(buffer, image_format, save_all=True, append_images=frames[1:], duration=10)
    return buffer.getvalue()


def make_bmp(width: int, height: int, offset: int = 54) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 4096, 0, 0, offset) + info + bytes(4096)


def make_tiff(*changed: tuple[int, int, int, int], next_page: int = 0) -> bytes:
    """A 64x64 grey TIFF; `changed` are (tag, type, count, value) that replace its own."""
    tags = {256: (4, 1, 64), 257: (4, 1, 64), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1)}
    tags |= {273: (4, 1, 200), 277: (3, 1, 1), 278: (4, 1, 64), 279: (4, 1, 4096)}
    tags |= {tag: (kind, count, value) for tag, kind, count, value in changed}
    entries = b"".join(struct.pack("<HHII", tag, *tags[tag]) for tag in sorted(tags))
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries
    return head + struct.pack("<I", next_page) + b"\x55" * 5000


def avif_of_size(side: int) -> bytes:
    """An AVIF whose size property is not that of the picture."""
    avif = encode("AVIF", (64, 64))
    start = avif.index(b"ispe") + 8
    return avif[:start] + struct.pack(">II", side, side) + avif[start + 8 :]


def cut(make: Callable[[], bytes], share: float) -> bytes:
    data = make()
    return data[: int(len(data) * share)]


def _encoded(*arguments: Any, **options: Any) -> Callable[[], bytes]:
    return partial(encode, *arguments, **options)


def list_bad_images() -> Iterator[BadFile]:
    yield from _cut_images()
    yield from _flipped_images()
    yield from _images_of_other_kinds()
    yield from _bad_pngs()
    yield from _bad_jpegs()
    yield from _bad_gifs_and_webps()
    yield from _bad_bmps_and_tiffs()
    yield bad_image("an image of one pixel", partial(encode, "PNG", (1, 1)), 200)
    yield bad_image("an image of one row", partial(encode, "PNG", (5000, 1)), TOO_LARGE)
    yield bad_image("an image of one column", partial(encode, "JPEG", (1, 5000)), TOO_LARGE)
    yield bad_image(
        "an image of more pixels than allowed", partial(encode_flat, "PNG", (9000, 9000)), TOO_LARGE
    )
    yield bad_image(
        "a PNG that says the most pixels, and has none", lambda: make_png(8000, 8000, b""), CORRUPT
    )


def _cut_images() -> Iterator[BadFile]:
    for kind in FORMATS:
        status = UNSUPPORTED if kind == "AVIF" else CORRUPT
        yield bad_image(f"half of a {kind}", partial(cut, _encoded(kind), 0.5), status)
        yield bad_image(f"ten bytes of a {kind}", partial(_first_bytes, kind), *ANY[3:])
    yield bad_image("a PNG without its end", partial(cut, _encoded("PNG"), 0.9), CORRUPT)
    yield bad_image(
        "a progressive JPEG without its end",
        partial(cut, _encoded("JPEG", (200, 200), progressive=True), 0.7),
        CORRUPT,
    )


def _first_bytes(kind: str) -> bytes:
    return encode(kind)[:10]


def _flipped_images() -> Iterator[BadFile]:
    for kind in FORMATS:
        for seed in range(3):
            make = partial(_flipped_image, kind, seed)
            yield bad_image(f"a {kind} with wrong bits ({seed})", make, *ANY)


def _flipped_image(kind: str, seed: int) -> bytes:
    return flipped(encode(kind), seed, num_bits=(1, 8, 64)[seed], first=8)


def _images_of_other_kinds() -> Iterator[BadFile]:
    for kind in ("JPEG2000", "EPS", "PPM", "ICO", "TGA", "PDF", "DDS", "SGI", "PCX"):
        yield bad_image(f"a file of kind {kind}", _encoded(kind), UNSUPPORTED)
    contents = {
        "an SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "a FITS": b"SIMPLE  =                    T".ljust(2880) + bytes(2880),
        "a PSD": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 30000, 30000, 8, 3) + bytes(99),
        "an HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200),
        "a web page": b"<!doctype html><script>1</script>",
        "PostScript": b"%!PS\n(/etc/passwd) (r) file\n",
        "an ImageMagick script": b"push graphic-context\nfill 'url(https://127.0.0.1/)'\n",
        "one byte": b"\xff",
        "zeros": bytes(100_000),
        "a pickle": b"\x80\x04\x95\x1a\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
        "a video": (MEDIA / "bunny_3_frames.mp4").read_bytes(),
    }
    for name, data in contents.items():
        yield bad_image(f"{name} as an image", partial(bytes, data), UNSUPPORTED)
    packed = partial(gzip.compress, encode("PNG"))
    yield bad_image("a compressed PNG", packed, UNSUPPORTED)
    yield bad_image("nothing as an image", bytes, CORRUPT)
    page = partial(encode, "JPEG")
    yield bad_image("a JPEG that is called a PNG", page, 200)
    yield bad_image("a JPEG that is called a web page", page, 200, media_type="text/html")
    yield bad_image("a JPEG that is called a video", page, 200, media_type="video/mp4")


def _bad_pngs() -> Iterator[BadFile]:
    rows = bytes((64 * 3 + 1) * 8)
    yield bad_image("a PNG of 50,000 x 50,000", lambda: make_png(50_000, 50_000, rows), TOO_LARGE)
    yield bad_image("a PNG of 2**31 - 1 x 1", lambda: make_png(2**31 - 1, 1, rows), TOO_LARGE)
    yield bad_image("a PNG of no width", lambda: make_png(0, 64, rows), UNSUPPORTED)
    # what is missing is black
    yield bad_image("a PNG of fewer rows than it says", lambda: make_png(64, 64, rows), 200)
    yield bad_image(
        "a PNG whose pixels inflate to 200 MB", lambda: make_png(64, 64, bytes(200_000_000)), 200
    )
    yield bad_image("a PNG with a wrong checksum", lambda: _corrupted(png_with(), b"IHDR"), 415)
    yield bad_image("a PNG with pixels that are no deflate", _png_without_deflate, CORRUPT)
    text = {"zTXt": b"k\0\0", "iTXt": b"k\0\1\0\0\0", "iCCP": b"k\0\0"}
    for name, head in text.items():
        make = partial(png_text_bomb, name.encode(), head)
        yield bad_image(f"a PNG with 100 MB of {name}", make, CORRUPT)
    yield bad_image("a PNG with a hundred long texts", png_with_many_texts, CORRUPT)
    yield bad_image("a PNG with 200,000 chunks", _png_of_chunks, TOO_LARGE)
    yield bad_image("a PNG with an endless directory", lambda: png_exif(endless_exif()), 200)
    yield bad_image("a PNG of 2**31 - 1 frames", animated_png, 200)


def _corrupted(png: bytes, name: bytes) -> bytes:
    """The checksum of a chunk is wrong."""
    start = png.index(name)
    length = int.from_bytes(png[start - 4 : start], "big")
    return png[: start + 4 + length] + b"\0\0\0\0" + png[start + 8 + length :]


def _png_without_deflate() -> bytes:
    png = png_with()
    start = png.index(b"IDAT")
    return png[: start - 4] + png_chunk(b"IDAT", b"no deflate" * 10) + png_chunk(b"IEND", b"")


def _png_of_chunks() -> bytes:
    return png_with(png_chunk(b"xxXx", b"") * 200_000)


def _bad_jpegs() -> Iterator[BadFile]:
    yield bad_image("a JPEG of 65,500 x 65,500", lambda: jpeg_of_size(65_500, 65_500), TOO_LARGE)
    yield bad_image("a JPEG of no height", lambda: jpeg_of_size(64, 0), UNSUPPORTED)
    yield bad_image("a JPEG of more rows than it has", lambda: jpeg_of_size(48, 4000), 200)
    yield bad_image("a JPEG of 5,000 scans", scan_bomb, TOO_LARGE)
    yield bad_image("a JPEG with 16 MB of profile", profile_bomb, 200)
    exif = b"Exif\0\0" + endless_exif()[:65_000]
    yield bad_image(
        "a JPEG with an endless directory", lambda: jpeg_with(jpeg_segment(0xE1, exif)), 200
    )
    yield bad_image(
        "a JPEG with 1,000 directories",
        lambda: jpeg_with(jpeg_segment(0xE1, b"Exif\0\0a") * 1000),
        TOO_LARGE,
    )
    yield bad_image(
        "a JPEG with 200,000 comments", lambda: jpeg_with(jpeg_segment(0xFE, b"") * 200_000), 413
    )
    yield bad_image("a JPEG without a frame", lambda: b"\xff\xd8\xff\xe0\0\x02\xff\xd9", 415)
    yield bad_image("a JPEG of nothing but markers", lambda: b"\xff\xd8" + b"\xff" * 500_000, 413)


def _bad_gifs_and_webps() -> Iterator[BadFile]:
    yield bad_image("a GIF of 65,535 x 65,535", lambda: gif_of_size(_U16, _U16), TOO_LARGE)
    yield bad_image("a GIF of no width", lambda: gif_of_size(0, 10), 200)
    yield bad_image("a GIF of 10,000 frames", lambda: gif_of_frames(10_000), 200)
    yield bad_image("a WebP of 16,383 x 16,383", lambda: webp_of_canvas(16_383), TOO_LARGE)
    yield bad_image("a WebP of 2**24 x 2**24", lambda: webp_of_canvas(2**24), TOO_LARGE)
    yield bad_image("a WebP of 500 frames", partial(animated, "WEBP", 500), 200)
    yield bad_image(
        "a WebP that says it is longer",
        lambda: _replaced(encode("WEBP"), 4, struct.pack("<I", _U32 - 1)),
        CORRUPT,
    )


def _replaced(data: bytes, start: int, new: bytes) -> bytes:
    return data[:start] + new + data[start + len(new) :]


def _bad_bmps_and_tiffs() -> Iterator[BadFile]:
    yield bad_image("a BMP of 2**31 - 1 x 2**31 - 1", lambda: make_bmp(2**31 - 1, 2**31 - 1), 413)
    yield bad_image("a BMP of negative width", lambda: make_bmp(-64, 8), TOO_LARGE)
    yield bad_image("a BMP whose pixels are elsewhere", lambda: make_bmp(32, 8, 2**31), CORRUPT)
    tags = {
        "width": (TOO_LARGE, (256, 4, 1, _U32)),
        "strips": (UNSUPPORTED, (273, 4, _U32, 8)),
        "samples": (UNSUPPORTED, (277, 3, 1, 65_535)),
        "no rows in a strip": (CORRUPT, (278, 4, 1, 0)),
        "strip of 4 GB": (200, (279, 4, 1, _U32)),  # uncompressed: its size is not needed
        "JPEG inside": (CORRUPT, (259, 3, 1, 7)),
        "JPEG 2000 inside": (UNSUPPORTED, (259, 3, 1, 34_712)),
        "unknown compression": (UNSUPPORTED, (259, 3, 1, 999)),
    }
    for name, (status, tag) in tags.items():
        yield bad_image(f"a TIFF: {name}", partial(make_tiff, tag), status)
    yield bad_image("a TIFF that goes round", lambda: make_tiff(next_page=8), 200)
    yield bad_image("a TIFF of 300 pages", partial(animated, "TIFF", 300), 200)
    yield bad_image("an AVIF of another size", lambda: avif_of_size(60_000), UNSUPPORTED)


# ---- videos

_CONTAINERS = frozenset((b"moov", b"trak", b"mdia", b"minf", b"dinf", b"stbl", b"edts"))


def base_mp4() -> bytes:
    return (MEDIA / "bunny_3_frames.mp4").read_bytes()


def base_mkv() -> bytes:
    return (MEDIA / "bunny_10fps.mkv").read_bytes()


def base_webm() -> bytes:
    return (MEDIA / "bunny_24fps.webm").read_bytes()


def box(name: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", 8 + len(payload)) + name + payload


def change_boxes(data: bytes, name: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """An MP4 in which the payloads of all boxes of a name are others, whatever their length."""
    changed, position = b"", 0
    while position + 8 <= len(data):
        size, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 :][:4]
        payload = data[position + 8 : position + size]
        if kind == name:
            payload = change(payload)
        elif kind in _CONTAINERS:
            payload = change_boxes(payload, name, change)
        changed += box(kind, payload)
        position += size
    return changed


def with_field(name: str, start: int, *values: int) -> Callable[[], bytes]:
    """An MP4 with other 32-bit numbers in its boxes of a name, from a byte of the payload on."""
    new = struct.pack(f">{len(values)}I", *values)

    def make() -> bytes:
        data = change_boxes(base_mp4(), name.encode(), lambda old: _replaced(old, start, new))
        assert data != base_mp4()
        return data

    return make


def with_payload(name: str, payload: bytes) -> Callable[[], bytes]:
    return lambda: change_boxes(base_mp4(), name.encode(), lambda _: payload)


def _url_entry(name: bytes, location: bytes) -> bytes:
    """A data reference to somewhere else: flags 0."""
    return bytes(4) + struct.pack(">I", 1) + box(name, bytes(4) + location + b"\0")


def alias_entry(path: bytes) -> bytes:
    """QuickTime's own data reference, an alias record that ends with a path."""
    record = struct.pack(">IHH", 0, 150 + 4 + len(path) + 4, 2).ljust(150, b"\0")
    record += struct.pack(">HH", 18, len(path)) + path + struct.pack(">Hh", 0, -1)
    return bytes(4) + struct.pack(">I", 1) + box(b"alis", bytes(4) + record)


def nested_boxes(depth: int) -> bytes:
    data = b""
    for _ in range(depth):
        data = box(b"moov", data)
    return base_mp4()[:32] + data


def many_boxes(name: bytes, count: int) -> bytes:
    return box(b"ftyp", b"isom\0\0\2\0isomiso2") + box(b"moov", box(name, b"") * count)


def edit_list(num_entries: int) -> bytes:
    """An edit list that shows nothing for ever, and the clip at -100 times its rate."""
    entries = struct.pack(">IiI", 2**31 - 1, -1, 0x10000) + struct.pack(">Iii", 1, 0, -100 << 16)
    edits = bytes(4) + struct.pack(">I", num_entries) + entries * 100
    return change_boxes(base_mp4(), b"elst", lambda _: edits)


def mkv_with(identifier: bytes, value: bytes) -> bytes:
    """A Matroska file with another value of an element; the length stays."""
    data = base_mkv()
    element = identifier + bytes((0x80 | len(value),))
    start = data.index(element) + len(element)
    return _replaced(data, start, value)


def mkv_of_unknown_sizes() -> bytes:
    """Segments within segments, none of which says where it ends."""
    header = base_mkv()[: base_mkv().index(b"\x18\x53\x80\x67")]
    segment = b"\x18\x53\x80\x67" + b"\x01" + b"\xff" * 7
    return header + segment * 20_000


def mkv_of_lacing() -> bytes:
    """Each block says that it holds 256 frames with sizes that it has no room for."""
    header = base_mkv()[: base_mkv().index(b"\x1f\x43\xb6\x75")]
    block = b"\xa3" + b"\x8c" + b"\x81\0\0\x06" + b"\xff" + b"\x7f" * 7
    return header + b"\x1f\x43\xb6\x75" + b"\x01" + b"\xff" * 7 + block * 20_000


def mkv_with_attachment() -> bytes:
    name, data = b"\x46\x6e" + b"\x8b" + _SECRET_PATH, b"\x46\x5c" + b"\x84" + bytes(4)
    file = b"\x61\xa7" + bytes((0x80 | len(name + data),)) + name + data
    return base_mkv() + b"\x19\x41\xa4\x69" + bytes((0x80 | len(file),)) + file


def playlist(num_entries: int) -> bytes:
    entry = b"#EXTINF:1,\nfile:///etc/passwd\n"
    return b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n" + entry * num_entries


def behind_ftyp(text: bytes) -> bytes:
    """Text with the first bytes of an MP4."""
    return b"\0\0\0\x14ftyp\n" + text


_TEXTS = {
    "a playlist": playlist(1),
    "an endless playlist": playlist(100_000),
    "a playlist of addresses": b"#EXTM3U\n#EXTINF:1,\nhttp://169.254.169.254/latest/\n",
    "ffconcat": b"ffconcat version 1.0\nfile /etc/passwd\n",
    "a concat address": b"concat:/etc/passwd|/etc/hostname",
    "a file address": b"file:///etc/passwd",
    "an SDP": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n",
    "a DASH manifest": b"<?xml version='1.0'?><MPD><BaseURL>file:///etc/passwd</BaseURL></MPD>",
    "subtitles": b"1\n00:00:00,000 --> 00:00:01,000\nhi\n",
    "styled subtitles": b"[Script Info]\nScriptType: v4.00+\n[Events]\nDialogue: 0,0,0,,a\n",
    "a RealMedia address": b"rtsp://127.0.0.1/a\n",
    "ffmetadata": b";FFMETADATA1\ntitle=a\n",
}


VIDEOS = {"MP4": base_mp4, "MKV": base_mkv, "WebM": base_webm}


def list_bad_videos() -> Iterator[BadFile]:
    yield from _cut_videos()
    yield from _flipped_videos()
    yield from _videos_of_other_kinds()
    yield from _texts_as_videos()
    yield from _lying_mp4s()
    yield from _endless_mp4s()
    yield from _bad_mkvs()


def _cut_videos() -> Iterator[BadFile]:
    for share in (0.02, 0.3, 0.6):
        for kind, make in VIDEOS.items():
            yield bad_video(f"{share:.0%} of a video ({kind})", partial(cut, make, share), CORRUPT)


def _flipped_videos() -> Iterator[BadFile]:
    for kind, make in VIDEOS.items():
        for seed in range(3):
            flip = partial(_flipped_video, make, seed)
            yield bad_video(f"a video ({kind}) with wrong bits ({seed})", flip, *ANY)


def _flipped_video(make: Callable[[], bytes], seed: int) -> bytes:
    return flipped(make(), seed, num_bits=(20, 200, 2000)[seed], first=64)


def _videos_of_other_kinds() -> Iterator[BadFile]:
    contents = {
        "nothing": b"",
        "one byte": b"\0",
        "zeros": bytes(100_000),
        "an AVI": b"RIFF\0\x10\0\0AVI LIST" + bytes(100),
        "an FLV": b"FLV\x01\x05\0\0\0\x09" + bytes(100),
        "a transport stream": (b"\x47\x40\0\x10" + bytes(184)) * 10,
        "a raw stream": b"\0\0\0\x01\x67\x42\0\x1e" + bytes(100),
        "an Ogg": b"OggS\0\x02" + bytes(100),
        "a WAV": b"RIFF\x24\0\0\0WAVEfmt " + bytes(100),
        "an HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200),
        "an EBML of another kind": b"\x1a\x45\xdf\xa3" + bytes(300),
        "a ZIP": b"PK\x03\x04" + bytes(100),
        "a PNG": encode("PNG"),
        "a JPEG": encode("JPEG"),
        "a GIF": encode("GIF"),
        "an AVIF": encode("AVIF"),
    }
    for name, data in contents.items():
        status = CORRUPT if name == "nothing" else UNSUPPORTED
        yield bad_video(f"{name} as a video", partial(bytes, data), status)


def _texts_as_videos() -> Iterator[BadFile]:
    for name, text in _TEXTS.items():
        yield bad_video(f"{name} as a video", partial(bytes, text), UNSUPPORTED)
        yield bad_video(f"{name} behind an MP4's first bytes", partial(behind_ftyp, text), CORRUPT)


def _lying_mp4s() -> Iterator[BadFile]:
    tables = {
        "2**32 - 1 sample sizes": (CORRUPT, with_field("stsz", 8, _U32)),
        "no samples": (CORRUPT, with_field("stsz", 8, 0)),
        "samples of 2 GB": (CORRUPT, with_field("stsz", 4, 2**31 - 1)),
        "2**32 - 1 times": (CORRUPT, with_field("stts", 4, _U32)),
        "no times": (CORRUPT, with_field("stts", 4, 0)),
        "2**32 - 1 samples at one time": (CORRUPT, with_field("stts", 8, _U32, 0)),
        "samples that take no time": (200, with_field("stts", 12, 0)),
        "samples that take 2**32 - 1 ticks": (200, with_field("stts", 12, _U32)),
        "2**32 - 1 chunks": (200, with_field("stco", 4, _U32)),
        "chunks outside of the file": (CORRUPT, with_field("stco", 8, _U32)),
        "chunks of 2**32 - 1 samples": (200, with_field("stsc", 12, _U32)),
        "a track of 65,535 x 65,535": (200, with_field("tkhd", 76, _U32, _U32)),
        "a film of no time scale": (200, with_field("mvhd", 12, 0)),
        "a film of 2**32 - 1 ticks": (200, with_field("mvhd", 16, _U32)),
        "a track of no time scale": (CORRUPT, with_field("mdhd", 12, 0)),
        "a track of 2**32 - 1 ticks": (200, with_field("mdhd", 16, _U32)),
        "a track of no duration": (200, with_field("mdhd", 16, 0)),
        "frames of 65,535 x 65,535": (200, with_field("stsd", 40, _U32)),
        "an unknown codec": (CORRUPT, with_field("stsd", 12, 0x41414141)),
        "2**32 - 1 codecs": (CORRUPT, with_field("stsd", 4, _U32)),
        "an empty moov": (CORRUPT, with_payload("moov", b"")),
        "an empty stbl": (CORRUPT, with_payload("stbl", b"")),
        "an empty mdat": (CORRUPT, with_payload("mdat", b"")),
        "a moov of noise": (CORRUPT, with_payload("moov", random.Random(1).randbytes(4000))),
    }
    for name, (status, make) in tables.items():
        yield bad_video(f"an MP4: {name}", make, status)
    for entry, location in (
        (b"url ", b"file:///etc/passwd"),
        (b"url ", _SECRET_PATH),
        (b"url ", b"http://127.0.0.1:1/a.mp4"),
        (b"urn ", b"a\0" + _SECRET_PATH),
    ):
        make = with_payload("dref", _url_entry(entry, location))
        name = f"an MP4 whose samples are at {entry.decode()}{location.decode()}"
        yield bad_video(name.replace("\0", " "), make, 200)  # nobody looks there
    yield bad_video("an MP4 with an alias", with_payload("dref", alias_entry(_SECRET_PATH)), 200)


def _endless_mp4s() -> Iterator[BadFile]:
    start = box(b"ftyp", b"isom\0\0\2\0isomiso2")
    yield bad_video("an MP4 of 5,000 nested boxes", partial(nested_boxes, 5000), CORRUPT)
    yield bad_video("an MP4 of a million boxes", partial(many_boxes, b"free", 1_000_000), CORRUPT)
    yield bad_video("an MP4 of 50,000 tracks", partial(many_boxes, b"trak", 50_000), CORRUPT)
    yield bad_video("an MP4 of boxes of size 0", lambda: start + bytes(4) + b"moov" * 100, CORRUPT)
    long_box = struct.pack(">I", 1) + b"moov" + struct.pack(">Q", 2**63 - 1)
    yield bad_video("an MP4 with a box of 2**63 bytes", lambda: start + long_box, CORRUPT)
    yield bad_video("an MP4 that is its header", lambda: start, CORRUPT)
    yield bad_video("an MP4 of fragments", lambda: start + box(b"moof", b"") * 100_000, CORRUPT)
    yield bad_video("an MP4 with a long edit list", partial(edit_list, _U32), 200)
    yield bad_video(
        "an MP4 without its moov", lambda: base_mp4().replace(b"moov", b"junk"), CORRUPT
    )


def _bad_mkvs() -> Iterator[BadFile]:
    doubles = {"NaN": float("nan"), "infinite": float("inf"), "negative": -1.0, "huge": 1e300}
    for name, value in doubles.items():
        make = partial(mkv_with, b"\x44\x89", struct.pack(">d", value))
        yield bad_video(f"an MKV whose duration is {name}", make, CORRUPT)
    no_scale = partial(mkv_with, b"\x2a\xd7\xb1", bytes(3))
    yield bad_video("an MKV with a time scale of 0", no_scale, 200)
    yield bad_video("an MKV of unknown sizes", mkv_of_unknown_sizes, CORRUPT)
    yield bad_video("an MKV of false lacing", mkv_of_lacing, CORRUPT)
    yield bad_video("an MKV with an attachment", mkv_with_attachment, 200)


# ---- lists of frames


def list_bad_frames() -> Iterator[BadFile]:
    frame, other = encode("PNG"), encode("PNG", (64, 32))
    yield bad_frames("frames of mixed sizes", lambda: [frame, frame, other], BAD_OPTIONS)
    yield bad_frames("frames of which one is cut", lambda: [frame, frame[:60], frame], CORRUPT)
    yield bad_frames("frames of which one is text", lambda: [frame, b"hi", frame], UNSUPPORTED)
    yield bad_frames("frames of which one is a video", lambda: [frame, base_mp4()], UNSUPPORTED)
    yield bad_frames("frames of which one is empty", lambda: [frame, b""], CORRUPT)
    yield bad_frames("too many frames", lambda: [frame] * 769, TOO_LARGE)
    huge = make_png(50_000, 50_000, b"")
    yield bad_frames("frames of which the last is huge", lambda: [frame, huge], TOO_LARGE)
    joined = ",".join(base64.b64encode(data).decode() for data in (frame, b"", frame))
    url = f"data:video/jpeg;base64,{joined}"
    part = {"type": "video_url", "video_url": {"url": url}}
    yield BadFile("joined frames of which one is empty", lambda: part, (CORRUPT,))


BAD_FILES = (*list_bad_images(), *list_bad_videos(), *list_bad_frames())
