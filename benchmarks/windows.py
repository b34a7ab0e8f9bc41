"""A video watched through windows that overlap by three quarters.

    python -m benchmarks.windows --stock-python STOCK/bin/python

Measured: seconds to the first token of each window after the first, given as a part of a file and
as a list of frames. As file windows ours gets the whole file each time, with `video_start` and
`video_end`; stock, which knows no such thing, gets each window cut out as a file of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.arguments import parse_arguments
from benchmarks.cache import temporary_cache
from benchmarks.client import user
from benchmarks.pair import Pair, running_pair
from benchmarks.pictures import photo
from benchmarks.report import Aim, Report, Sample, median_row
from benchmarks.workload.clip import write_jpeg, write_mp4
from benchmarks.workload.message import file_part, frames_part
from benchmarks.workload.text_area import Pixels

_WIDTH, _HEIGHT = 1280, 720
_FPS = 24
_SAMPLED_FPS = 2  # the models' own default
_STRIDE_S = 2
_WINDOW_S = 4 * _STRIDE_S
_NUM_WINDOWS = 9
_SAMPLING_STEP = _FPS // _SAMPLED_FPS
_NUM_SAMPLED = _WINDOW_S * _SAMPLED_FPS


@dataclass(frozen=True, slots=True)
class Windows:
    """Seconds for each window in order, the first one included."""

    files: Sequence[Sample]
    frame_lists: Sequence[Sample]


def main() -> None:
    arguments = parse_arguments(__doc__)
    with temporary_cache() as cache, running_pair(arguments, cache) as pair:
        run_windows(pair, make_clip(0, num_windows=1))  # warm-up
        windows = run_windows(pair, make_clip(1, _NUM_WINDOWS))
    report(windows).print()


def make_clip(seed: int, num_windows: int) -> list[Pixels]:
    """A camera that moves over a photograph; BGR frames, as OpenCV wants them."""
    num_frames = ((num_windows - 1) * _STRIDE_S + _WINDOW_S) * _FPS
    scene = np.asarray(photo(seed, _WIDTH + num_frames, _HEIGHT + num_frames))[..., ::-1]
    return [np.ascontiguousarray(scene[i : i + _HEIGHT, i : i + _WIDTH]) for i in range(num_frames)]


def run_windows(pair: Pair, clip: Sequence[Pixels]) -> Windows:
    """All windows of the clip, first as parts of a file, then as lists of JPEG frames."""
    starts_s = range(0, len(clip) // _FPS - _WINDOW_S + 1, _STRIDE_S)
    whole = write_mp4(clip, _FPS)
    files = []
    for start_s in starts_s:
        cut = write_mp4(clip[start_s * _FPS : (start_s + _WINDOW_S) * _FPS], _FPS)
        files.append(pair.first_token(_ask(file_window(whole, start_s)), _ask(video_part(cut))))
    frames = [write_jpeg(frame) for frame in clip[::_SAMPLING_STEP]]
    lists = []
    for start_s in starts_s:
        first = start_s * _SAMPLED_FPS
        lists.append(pair.first_token(_ask(frames_part(frames[first : first + _NUM_SAMPLED]))))
    return Windows(files, lists)


def file_window(video: bytes, start_s: int) -> dict[str, Any]:
    """A content part for ours.

    A window that ends on its last sampled frame, with the number of frames said, is sampled at the
    same frames as its neighbours.
    """
    part = video_part(video)
    part["video_url"] |= {
        "video_start": start_s,
        "video_end": start_s + (_NUM_SAMPLED - 1) / _SAMPLED_FPS,
        "num_frames": _NUM_SAMPLED,
    }
    return part


def video_part(video: bytes) -> dict[str, Any]:
    return file_part("video", video, "video/mp4")


def report(windows: Windows) -> Report:
    kinds = {"file": windows.files, "list of frames": windows.frame_lists}
    rows, aims = [], []
    for name, samples in kinds.items():
        later = median_row(f"{name}: later windows", samples[1:], "s")
        rows += [median_row(f"{name}: first window", samples[:1], "s"), later]
        aims.append(Aim(f"{name}: later windows, times sooner", later.ratio, 2.5))
    return Report("windows", rows, aims)


def _ask(video: dict[str, Any]) -> list[dict[str, Any]]:
    return [user(video, "What happens here?")]


if __name__ == "__main__":
    main()
