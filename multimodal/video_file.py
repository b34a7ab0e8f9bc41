"""Video files before they are decoded: which of them are let near a demuxer."""

from multimodal.errors import MediaCorrupt, MediaTooLarge, UnsupportedMedia
from multimodal.options import MediaLimits

_ISO_BOXES = (b"ftyp", b"moov", b"mdat")  # with which MP4 and QuickTime files begin
_ISO_NEEDED_BOXES = (b"moov", b"moof", b"mdat")  # without which frames are missing
_ISO_BOX_BYTES = 8  # size and name
_ISO_LONG_BOX_BYTES = 16  # with a size of 8 bytes
_MAX_ISO_BOXES = 10_000  # looked at; a fragment has two
_IMAGE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1", b"jp2 ")
_EBML_MAGIC = b"\x1a\x45\xdf\xa3"
_EBML_HEADER_BYTES = 256  # the document type stands within
_EBML_TYPES = (b"webm", b"matroska")
_SEGMENT = b"\x18\x53\x80\x67"  # the element that holds all of a Matroska file but its header


def check_video_file(data: bytes, limits: MediaLimits) -> None:
    """Let only whole MP4, QuickTime, WebM and Matroska files of allowed size near a demuxer.

    A demuxer that guesses from content would follow playlists and read raw streams and images. One
    that is given a part of a file looks for the rest of it behind the end.

    Raises: MediaTooLarge, UnsupportedMedia, MediaCorrupt.
    """
    if len(data) > limits.max_video_bytes:
        raise MediaTooLarge(
            f"a video of {len(data)} bytes exceeds max_video_bytes ({limits.max_video_bytes})",
            "video_too_large",
        )
    is_iso = data[4:8] in _ISO_BOXES and data[8:12] not in _IMAGE_BRANDS
    is_ebml = data.startswith(_EBML_MAGIC) and any(
        name in data[:_EBML_HEADER_BYTES] for name in _EBML_TYPES
    )
    if not (is_iso or is_ebml):
        raise UnsupportedMedia(
            "not a video of a supported format (MP4, QuickTime, WebM, Matroska)",
            "unsupported_video",
        )
    end = _iso_end(data) if is_iso else _matroska_end(data)
    if end > len(data):
        raise MediaCorrupt(
            f"the video file is cut off: {len(data)} of at least {end} bytes", "corrupt_video"
        )


def _iso_end(data: bytes) -> int:
    """Where the last box ends that frames need, by what it says itself."""
    start = end = 0
    for _ in range(_MAX_ISO_BOXES):
        head = data[start : start + _ISO_LONG_BOX_BYTES]
        size, name = int.from_bytes(head[:4], "big"), head[4:_ISO_BOX_BYTES]
        if size == 1:
            size = int.from_bytes(head[_ISO_BOX_BYTES:], "big")
        if size < _ISO_BOX_BYTES:  # it reaches to the end of the file, or is none
            break
        start += size
        if name in _ISO_NEEDED_BOXES:
            end = start
    return end


def _matroska_end(data: bytes) -> int:
    """Where the segment ends, by what it says itself; 0 if that is not known in advance."""
    header_bytes, start = _read_ebml_size(data, len(_EBML_MAGIC))
    start += header_bytes
    if data[start : start + len(_SEGMENT)] != _SEGMENT:
        return 0
    segment_bytes, start = _read_ebml_size(data, start + len(_SEGMENT))
    return start + segment_bytes


def _read_ebml_size(data: bytes, start: int) -> tuple[int, int]:
    """The size of an element, 0 if it is unknown, and where the element's content begins."""
    num_bytes = 9 - int.from_bytes(data[start : start + 1]).bit_length()
    end = start + num_bytes
    unknown = 2 ** (7 * num_bytes) - 1
    size = int.from_bytes(data[start:end]) & unknown
    return (0 if size == unknown else size), end
