"""Per-request media options and the server's bounds on them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MediaOptions:
    """What a request may ask for one media item; `None` means the checkpoint's default.

    Images read `min_pixels` and `max_pixels` (pixels of the resized image). Videos read all:
    `min_pixels`/`max_pixels` per frame, `total_pixels` for the whole clip in qwen-vl-utils' unit
    (two frames share one temporal patch, so it bounds frames * height * width / 2), `fps` or
    `num_frames` (mutually exclusive), `max_frames`, and the window `video_start`..`video_end` in
    seconds.
    For a list of frames `fps` states the rate at which they were taken (default 2).
    """

    min_pixels: int | None = None
    max_pixels: int | None = None
    fps: float | None = None
    num_frames: int | None = None
    max_frames: int | None = None
    video_start: float | None = None
    video_end: float | None = None
    total_pixels: int | None = None


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """Ceilings of the server, checked on the header before decoding and again on what was decoded.

    `max_source_pixels` bounds width * height of an encoded image or frame, and
    `max_request_source_pixels` their sum over the images and listed frames of one request;
    `max_decoded_bytes` bounds the RGB bytes, decoded and resized, that one request may make the
    server hold, and `max_total_decoded_bytes` their sum over all requests that are loading media;
    `max_video_worker_bytes` is the address space of one process that decodes videos; times are
    seconds of wall clock.
    """

    max_image_bytes: int = 32 * 1024**2
    max_video_bytes: int = 256 * 1024**2
    max_source_pixels: int = 64_000_000
    max_request_source_pixels: int = 1_000_000_000  # 768 frames of 720p are 708 million
    max_decoded_bytes: int = 2 * 1024**3
    max_total_decoded_bytes: int = 8 * 1024**3
    max_aspect_ratio: float = 200.0  # the reference's own limit (smart_resize)
    max_pixels: int = (
        16_777_216  # 16384 tokens * 32 * 32: the checkpoints' own maximum for an image
    )
    max_total_pixels: int = (
        25_165_824 // 2
    )  # the checkpoints' video maximum, in qwen-vl-utils' unit
    max_fps: float = 60.0
    max_frames: int = 768
    max_video_duration_s: float = 7200.0
    video_timeout_s: float = 60.0
    max_video_worker_bytes: int = 4 * 1024**3
