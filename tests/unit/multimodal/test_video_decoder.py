import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import decord
import numpy as np
import psutil
import pytest
from media_files import encode, frame_number, gradient, make_video, rotated_by_matrix

from multimodal.errors import MediaCorrupt, MediaError, MediaTooLarge, UnsupportedMedia
from multimodal.landlock import SCOPED_VERSION, find_landlock
from multimodal.options import MediaLimits
from multimodal.plan import VideoHeader
from multimodal.video import DecodingCancelled, VideoDecoder
from multimodal.video_file import check_video_file
from tests.e2e.real_server import is_alive, wait_until

LIMITS = MediaLimits()
MEDIA = Path(__file__).parents[2] / "media"
FTYP = b"\0\0\0\x08ftyp"
EBML = b"\x1a\x45\xdf\xa3\x87\x42\x82\x84webm"


def run_confined(attempt: str, *arguments: str) -> str:
    """What a confined process prints: what the attempt does, or `refused`."""
    script = (
        "import ctypes, os, socket, sys\n"
        "from multimodal.video_worker import _confine\n"
        "libc = ctypes.CDLL(None)\n"
        "_confine(1024**3)\n"
        f"try:\n    {attempt}\n"
        "except (OSError, MemoryError):\n    print('refused')\n"
    )
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout


@pytest.fixture
def decoder() -> Iterator[VideoDecoder]:
    decoder = VideoDecoder(1, LIMITS)
    yield decoder
    decoder.close()


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_video(tmp_path_factory.mktemp("video"))


def decode(
    decoder: VideoDecoder, data: bytes, indices: tuple[int, ...]
) -> tuple[VideoHeader, np.ndarray]:
    with decoder.open(data, threading.Event()) as stream:
        return stream.header, np.stack(list(stream.frames(indices)))


def worker_pids() -> set[int]:
    """Processes whose parent is this one and that run the worker module."""
    children = psutil.Process().children()
    return {child.pid for child in children if "multimodal.video_worker" in child.cmdline()}


def decoding_process() -> psutil.Process:
    """The child of the only worker, which has the video that is open."""
    (worker,) = worker_pids()
    (child,) = psutil.Process(worker).children()
    return child


def assert_ends(process: psutil.Process) -> None:
    """It ends soon, and waits at most for its parent to be told of it."""
    wait_until(lambda: not is_alive(process))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_header_and_frames_of_each_container(
    suffix: str, decoder: VideoDecoder, tmp_path: Path
) -> None:
    data = make_video(tmp_path, suffix=suffix)
    header, frames = decode(decoder, data, (0, 7, 30, 47))
    assert header == VideoHeader(num_frames=48, fps=pytest.approx(24.0), width=96, height=64)
    assert frames.shape == (4, 64, 96, 3)
    assert [frame_number(frame) for frame in frames] == [0, 7, 30, 47]


@pytest.mark.parametrize(("suffix", "width"), [(".mp4", 320), (".webm", 182), (".mkv", 100)])
def test_frames_equal_those_that_the_reference_reads(
    suffix: str, width: int, decoder: VideoDecoder, tmp_path: Path
) -> None:
    video = make_video(tmp_path, suffix=suffix, width=width)
    indices = (0, 1, 2, 11, 12, 13, 40)
    expected = decord.VideoReader(BytesIO(video)).get_batch(indices).asnumpy()
    assert np.array_equal(decode(decoder, video, indices)[1], expected)


@pytest.mark.parametrize("width", [48, 96, 144])
def test_padded_rows_are_cut_to_the_width(
    width: int, decoder: VideoDecoder, tmp_path: Path
) -> None:
    header, frames = decode(decoder, make_video(tmp_path, width=width), (0, 20))
    assert header.width == width
    assert frames.shape == (2, 64, width, 3)
    assert [frame_number(frame) for frame in frames] == [0, 20]
    assert np.ptp(frames[1], axis=(0, 1)).max() < 8


def test_repeated_index_repeats_the_frame(decoder: VideoDecoder, video: bytes) -> None:
    _, frames = decode(decoder, video, (3, 9, 9))
    assert np.array_equal(frames[1], frames[2])
    assert not np.array_equal(frames[0], frames[1])


def test_rotation_of_phone_videos_is_applied(decoder: VideoDecoder, video: bytes) -> None:
    header, frames = decode(decoder, rotated_by_matrix(video, 96), (0,))
    assert (header.width, header.height) == (64, 96)
    assert frames.shape == (1, 96, 64, 3)


def test_one_worker_has_many_videos_decoded(decoder: VideoDecoder, video: bytes) -> None:
    decode(decoder, video, (0,))
    first = worker_pids()
    decode(decoder, video, (5,))
    assert len(first) == 1
    assert worker_pids() == first


def test_no_process_reads_two_videos(decoder: VideoDecoder, video: bytes) -> None:
    """What one has left in memory is not there for the next one, however it is asked for."""
    processes = set()
    for _ in range(3):
        with decoder.open(video, threading.Event()) as stream:
            processes.add(decoding_process())
            list(stream.frames((0, 1)))
    assert len(processes) == 3
    for process in processes:
        assert_ends(process)


def test_pipes_that_may_not_grow_carry_videos_as_well(
    video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused, allow = [], fcntl.fcntl

    def control(fd: int, command: int, *rest: int) -> int:
        if command == fcntl.F_SETPIPE_SZ:
            refused.append(fd)
            raise PermissionError("fs.pipe-user-pages-soft")
        return allow(fd, command, *rest)

    monkeypatch.setattr(fcntl, "fcntl", control)
    decoder = VideoDecoder(1, LIMITS)
    _, frames = decode(decoder, video, (30,))
    decoder.close()
    assert len(refused) == 2
    assert frame_number(frames[0]) == 30


def test_no_process_runs_before_the_first_video() -> None:
    decoder = VideoDecoder(2, LIMITS)
    assert worker_pids() == set()
    decoder.close()


@pytest.mark.parametrize("damage", ["truncated", "no index", "garbage inside", "empty box"])
def test_damaged_video_is_corrupt_and_the_next_one_decodes(
    damage: str, decoder: VideoDecoder, video: bytes
) -> None:
    damaged = {
        "truncated": video[: len(video) // 2],
        "no index": video.replace(b"moov", b"junk"),
        "garbage inside": video[:64] + bytes(len(video) - 64),
        "empty box": b"\x00\x00\x00\x08ftyp",
    }[damage]
    with pytest.raises(MediaCorrupt) as error:
        decode(decoder, damaged, (0,))
    expected = "the video cannot be decoded"
    if damage == "truncated":
        frames_end = video.index(b"moov") - 4
        expected = f"the video file is cut off: {len(damaged)} of at least {frames_end} bytes"
    assert error.value.message == expected
    assert decode(decoder, video, (0,))[0].num_frames == 48


def test_killed_worker_fails_its_own_video_only(decoder: VideoDecoder, video: bytes) -> None:
    with pytest.raises(MediaCorrupt), decoder.open(video, threading.Event()) as stream:
        (worker,) = worker_pids()
        decoding_process().kill()
        list(stream.frames((0, 1)))
    assert decode(decoder, video, (0,))[0].num_frames == 48
    assert worker not in worker_pids()


def test_worker_killed_while_it_starts_fails_no_video(decoder: VideoDecoder, video: bytes) -> None:
    def kill_first() -> None:
        while not (pids := worker_pids()):
            time.sleep(0.005)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_first)
    killer.start()
    _, frames = decode(decoder, video, (3,))
    killer.join()
    assert frame_number(frames[0]) == 3


def test_stalled_worker_is_ended_at_the_deadline(video: bytes) -> None:
    decoder = VideoDecoder(1, MediaLimits(video_timeout_s=2.0))
    with (
        pytest.raises(MediaTooLarge, match=r"video_timeout_s \(2\)") as error,
        decoder.open(video, threading.Event()) as stream,
    ):
        process = decoding_process()
        process.suspend()
        list(stream.frames((0, 1)))
    assert error.value.code == "video_timeout"
    assert worker_pids() == set()
    assert_ends(process)
    decoder.close()


def test_cancelled_video_ends_its_worker(decoder: VideoDecoder, video: bytes) -> None:
    cancelled = threading.Event()
    with pytest.raises(DecodingCancelled), decoder.open(video, cancelled) as stream:
        process = decoding_process()
        cancelled.set()
        list(stream.frames((0, 1)))
    assert worker_pids() == set()
    assert_ends(process)
    assert decode(decoder, video, (0,))[0].num_frames == 48


def test_video_abandoned_between_frames_does_not_disturb_the_next(
    decoder: VideoDecoder, video: bytes
) -> None:
    with decoder.open(video, threading.Event()) as stream:
        next(iter(stream.frames((0, 20, 40))))
    _, frames = decode(decoder, video, (30,))
    assert frame_number(frames[0]) == 30


def test_close_ends_every_process(video: bytes) -> None:
    decoder = VideoDecoder(2, LIMITS)
    decode(decoder, video, (0,))
    assert worker_pids() != set()
    decoder.close()
    assert worker_pids() == set()
    with pytest.raises(DecodingCancelled):
        decode(decoder, video, (0,))


def test_worker_without_memory_fails_its_video(video: bytes, tmp_path: Path) -> None:
    large = make_video(tmp_path, num_frames=2, width=7680, height=4320)
    decoder = VideoDecoder(1, MediaLimits(max_video_worker_bytes=500 * 1024**2))
    assert decode(decoder, video, (0,))[0].width == 96
    with pytest.raises(MediaCorrupt):
        decode(decoder, large, (0, 1))
    assert decode(decoder, video, (0,))[0].width == 96
    decoder.close()


@pytest.mark.parametrize(
    "attempt",
    [
        "open('/dev/null')",
        "__import__('socket').socket()",
        "__import__('os').pipe()",
        "bytearray(2 * 1024**3)",
    ],
)
def test_confined_worker_cannot(attempt: str) -> None:
    assert run_confined(attempt) == "refused\n"


@pytest.mark.skipif(find_landlock() < SCOPED_VERSION, reason="this kernel has no Landlock")
@pytest.mark.parametrize(
    "attempt",
    [
        "os.execv('/bin/true', ['true'])",
        "os.unlink(sys.argv[1])",
        "os.rename(sys.argv[1], sys.argv[1] + '.moved')",
        "os.mkdir(sys.argv[1] + '.folder')",
        "os.symlink('/etc/passwd', sys.argv[1] + '.link')",
        "os.kill(os.getppid(), 0)",
    ],
)
def test_worker_that_landlock_confines_cannot(attempt: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    assert run_confined(attempt, str(path)) == "refused\n"
    assert list(tmp_path.iterdir()) == [path]


def test_confined_worker_is_not_dumped_and_gains_no_rights() -> None:
    attempt = "print(libc.prctl(3, 0, 0, 0, 0), libc.prctl(39, 0, 0, 0, 0))"
    assert run_confined(attempt) == "0 1\n"


def test_worker_is_confined_before_it_has_other_threads() -> None:
    """Landlock restricts one thread and those that it starts."""
    script = "import multimodal.video_worker, os; print(len(os.listdir('/proc/self/task')))"
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # as the decoder sets it
    command = [sys.executable, "-c", script]
    completed = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
    assert completed.stdout == b"1\n"


def test_job_ends_with_its_processor_time() -> None:
    script = (
        "from multimodal.video_worker import _limit_cpu\n_limit_cpu(1)\nwhile True:\n    pass\n"
    )
    completed = subprocess.run([sys.executable, "-c", script], timeout=300)
    assert completed.returncode == -signal.SIGKILL


def test_worker_ends_with_its_parent() -> None:
    command = [sys.executable, "-m", "multimodal.video_worker", str(1024**3)]
    completed = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert completed.returncode == 0
    assert completed.stdout.endswith(b'{"ready": true}')


def stand_in(monkeypatch: pytest.MonkeyPatch, behaviour: str) -> None:
    """The next worker reads one video, and then does this. `answer` sends text as JSON."""
    script = (
        "import os, signal, sys, time\n"
        "from multimodal.video_worker import _confine\n"
        "from multimodal.worker_messages import *\n"
        "commands, answers = private_stdio()\n"
        "_confine(int(sys.argv[1]))\n"
        "send(answers, {'ready': True})\n"
        "read_exactly(commands, receive(commands)['num_bytes'])\n"
        "def answer(text):\n"
        "    answers.write(len(text).to_bytes(4, 'big') + text.encode())\n"
        "    answers.flush()\n"
        f"{behaviour}\n"
    )
    start, is_first = subprocess.Popen, iter([True])

    def popen(command: list[str], **options: object) -> object:
        if next(is_first, False):
            command = [sys.executable, "-P", "-c", script, command[-1]]
        return start(command, **options)

    monkeypatch.setattr("multimodal.video.subprocess.Popen", popen)


def answer(**changed: object) -> str:
    header = {"num_frames": 10, "fps": 24.0, "width": 96, "height": 64, **changed}
    return f"answer({json.dumps(json.dumps(header))})"


@pytest.mark.parametrize(
    "behaviour",
    [
        "os.kill(os.getpid(), signal.SIGSEGV)",
        "os.abort()",
        "bytearray(1 << 40)",
        "held = []\nwhile True: held.append(bytes(1 << 26))",
        "answer('null')",
        "answer('{')",
        "answer('[' * 4000)",
        "answer('9' * 4000)",
        "answer('x' * 5000)",
        "answers.write(bytes([255] * 4)); answers.flush()",
        answer(num_frames=float("inf")),
        answer(num_frames=10**400),
        answer(num_frames=0),
        answer(num_frames=-5),
        answer(width=float("nan")),
        answer(width=2**40),
        answer(height=None),
        answer(fps="fast"),
        answer(fps=[1]),
        answer() + "; receive(commands); os.kill(os.getpid(), signal.SIGSEGV)",
        answer() + "; receive(commands); answers.write(bytes(100)); answers.flush()",
    ],
)
def test_whatever_a_worker_does_costs_one_video(
    behaviour: str, decoder: VideoDecoder, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, behaviour)
    with pytest.raises(MediaCorrupt):
        decode(decoder, video, (0, 9))
    assert decode(decoder, video, (0,))[0].num_frames == 48


@pytest.mark.parametrize(
    "behaviour", ["time.sleep(1000)", answer() + "; time.sleep(1000)", "while True: pass"]
)
def test_worker_that_hangs_costs_one_video(
    behaviour: str, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, behaviour)
    decoder = VideoDecoder(1, MediaLimits(video_timeout_s=3.0))
    with pytest.raises(MediaTooLarge) as error:
        decode(decoder, video, (0, 9))
    assert error.value.code == "video_timeout"
    assert worker_pids() == set()
    decoder.close()


@pytest.mark.parametrize("fps", [float("nan"), float("inf"), -1.0, 0.0, 1e300, 1e-300])
def test_any_frame_rate_is_told(
    fps: float, decoder: VideoDecoder, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, answer(fps=fps) + "; receive(commands)")
    with decoder.open(video, threading.Event()) as stream:
        stream.finish()
    assert str(stream.header.fps) == str(fps)


def test_randomly_damaged_videos_raise_nothing_but_media_errors(
    decoder: VideoDecoder, video: bytes
) -> None:
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(30):
        damaged = bytearray(video)
        for position in rng.integers(0, len(video), 40):
            damaged[position] = rng.integers(0, 256)
        try:
            decode(decoder, bytes(damaged), (0, 20, 47))
        except MediaError:
            refused += 1
    assert refused > 0
    assert frame_number(decode(decoder, video, (20,))[1][0]) == 20


def test_worker_imports_neither_torch_nor_pillow() -> None:
    script = (
        "import sys, multimodal.video_worker\n"
        "print({'torch', 'PIL', 'transformers'} & set(sys.modules))"
    )
    completed = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True)
    assert completed.stdout == b"set()\n"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"#EXTM3U\n#EXTINF:1,\nhttp://example.org/a.ts\n",
        b"ffconcat version 1.0\nfile /etc/hostname\n",
        b"RIFF\x00\x10\x00\x00AVI LIST" + bytes(100),
        b"\x00\x00\x00\x01\x67\x42\x00\x1e" + bytes(100),
        b"\x47\x40\x00\x10" + bytes(184),
        b"FLV\x01\x05\x00\x00\x00\x09" + bytes(100),
        b"\x1a\x45\xdf\xa3" + bytes(300),
        b"\x00\x00\x00\x1cftypavif" + bytes(100),
        encode(gradient(32, 32)),
        encode(gradient(32, 32), "JPEG"),
        encode(gradient(32, 32), "GIF"),
        encode(gradient(32, 32), "AVIF"),
    ],
)
def test_other_formats_never_reach_the_demuxer(data: bytes) -> None:
    with pytest.raises(UnsupportedMedia) as error:
        check_video_file(data, LIMITS)
    assert error.value.code == "unsupported_video"


@pytest.mark.parametrize("name", ["bunny_10fps.mkv", "bunny_24fps.webm", "bunny_25fps.mp4"])
def test_a_file_that_is_cut_off_never_reaches_the_demuxer(name: str) -> None:
    """decord2 reads what is in memory behind it, and dies of it if nothing is."""
    whole = (MEDIA / name).read_bytes()
    check_video_file(whole, LIMITS)
    check_video_file(whole + bytes(100), LIMITS)
    for num_bytes in (len(whole) // 3, len(whole) * 2 // 3, len(whole) - 1):
        with pytest.raises(MediaCorrupt, match=f"file is cut off: {num_bytes} of at least"):
            check_video_file(whole[:num_bytes], LIMITS)


@pytest.mark.parametrize(
    ("data", "end"),
    [
        (FTYP + b"\0\0\0\x01mdat" + (2**40).to_bytes(8, "big"), 2**40 + 8),
        (FTYP + b"\0\0\0\0mdat", None),
        (FTYP + b"\0\0\0\x07mdat", None),
        (FTYP + b"\0\0\1\0free", None),
        (FTYP + b"\0\0\1\0free" + bytes(248) + b"\0\0\1\0moof", 520),
        (EBML + b"\x18\x53\x80\x67\x88" + bytes(7), len(EBML) + 13),
        (EBML + b"\x18\x53\x80\x67\x88" + bytes(8), None),
        (EBML + b"\x18\x53\x80\x67\xff" + bytes(8), None),
        (EBML + b"\x18\x53\x80\x67\x01" + bytes([255] * 7), None),
        (EBML + b"\x18\x53\x80\x67\x01\0\0\0\0\1\0\0", len(EBML) + 12 + 2**16),
        (EBML, None),
    ],
)
def test_where_a_file_ends_by_its_own_words(data: bytes, end: int | None) -> None:
    """Sizes that are unknown, or of parts that no frame is in, tell nothing."""
    if end is None:
        check_video_file(data, LIMITS)
        return
    with pytest.raises(MediaCorrupt, match=f"{len(data)} of at least {end} bytes"):
        check_video_file(data, LIMITS)


def test_too_many_bytes_are_refused() -> None:
    with pytest.raises(MediaTooLarge, match=r"100 bytes exceeds max_video_bytes \(99\)"):
        check_video_file(bytes(100), MediaLimits(max_video_bytes=99))
