"""Windows of a file overlap in the frames that are sampled, and last as long as stock's."""

from benchmarks.windows import file_window, make_clip
from benchmarks.workload.message import frames_part
from multimodal.options import MediaLimits, MediaOptions
from multimodal.plan import VideoHeader, plan_video
from multimodal.preprocessor_config import PreprocessorConfig


def sampled_frames(start_s: int) -> tuple[int, ...]:
    options = file_window(b"", start_s)["video_url"]
    del options["url"]
    header = VideoHeader(num_frames=24 * 60, fps=24.0, width=1280, height=720)
    plan = plan_video(header, MediaOptions(**options), PreprocessorConfig(), MediaLimits())
    return plan.indices


def test_neighbours_share_three_quarters_of_their_frames() -> None:
    first, second = sampled_frames(0), sampled_frames(2)
    assert len(first) == len(second) == 16
    assert first[4:] == second[:12]


def test_all_windows_fit_into_the_clip() -> None:
    assert len(make_clip(0, num_windows=1)) == 8 * 24
    assert len(make_clip(0, num_windows=3)) == (2 * 2 + 8) * 24


def test_listed_frames_are_separated_by_commas() -> None:
    url = frames_part([b"a", b"b"])["video_url"]["url"]
    assert url == "data:video/jpeg;base64,YQ==,Yg=="
