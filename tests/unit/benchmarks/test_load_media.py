"""Media that are drawn are what they claim to be; a folder's are sent as they are."""

import base64
import random
from io import BytesIO
from pathlib import Path
from typing import Any, get_args

import cv2
import pytest
from PIL import Image

from benchmarks.pictures import encode
from benchmarks.workload.clip import SAMPLED_FPS, draw_frames, draw_mp4, sample_frames
from benchmarks.workload.drawn_image import ImageKind, draw_image
from benchmarks.workload.drawn_media import DrawnMedia
from benchmarks.workload.error import WorkloadError
from benchmarks.workload.image_sizes import ImageSizes
from benchmarks.workload.media_folder import MediaFolder
from benchmarks.workload.message import Part
from benchmarks.workload.options import WorkloadOptions
from benchmarks.workload.workload import Workload

SIZES = ImageSizes.parse("96x64:3,64x80:1")


def url(part: Part) -> tuple[str, bytes]:
    """Media type and bytes of a data URL."""
    media_type, data = part[part["type"]]["url"].removeprefix("data:").split(";base64,")
    return media_type, base64.b64decode(data)


def opened(part: Part) -> Image.Image:
    media_type, data = url(part)
    image = Image.open(BytesIO(data))
    assert Image.MIME[image.format or ""] == media_type
    image.load()
    return image


def make_folder(folder: Path, num_images: int, num_videos: int = 0) -> Path:
    for number in range(num_images):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(folder / f"{number}.png")
    for number in range(num_videos):
        (folder / f"{number}.mp4").write_bytes(draw_mp4(random.Random(number), 1))
    (folder / "notes.txt").write_text("no medium")
    return folder


@pytest.mark.parametrize("kind", get_args(ImageKind))
@pytest.mark.parametrize("size", [(64, 64), (300, 400)])
def test_no_two_drawn_images_are_alike(kind: ImageKind, size: tuple[int, int]) -> None:
    images = [draw_image(kind, random.Random(seed), *size, scenes_seed=0) for seed in range(20)]
    assert {image.size for image in images} == {size}
    assert len({image.tobytes() for image in images}) == 20
    assert len({encode(image, "JPEG") for image in images}) == 20


def test_photographs_compress_like_some_and_pages_better() -> None:
    num_bits = {}
    for kind in get_args(ImageKind):
        image = draw_image(kind, random.Random(0), 640, 480, scenes_seed=0)
        num_bits[kind] = 8 * len(encode(image, "PNG")) / (640 * 480)
    assert 8 < num_bits.pop("photo") < 20
    assert max(num_bits.values()) < 4


def test_drawn_images_have_the_sizes_and_formats_asked_for() -> None:
    media = DrawnMedia(0, SIZES, video_seconds=1)
    images = [opened(media.image(number)) for number in range(40)]
    assert {image.size for image in images} == set(SIZES.sizes)
    assert {image.format for image in images} == {"JPEG", "PNG"}
    assert opened(media.screenshot(0)).size == (1920, 1080)
    assert opened(media.page(0)).size == (1240, 1754)


def test_sizes_come_as_often_as_their_weights_say() -> None:
    generator = random.Random(0)
    drawn = [SIZES.draw(generator) for _ in range(1000)]
    assert 700 < drawn.count((96, 64)) < 800


def test_a_drawn_clip_opens_and_no_two_of_its_frames_are_alike(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(draw_mp4(random.Random(0), 2))
    video = cv2.VideoCapture(str(path))
    assert video.get(cv2.CAP_PROP_FPS) == 24
    frames = []
    while (read := video.read())[0]:
        frames.append(read[1])
    assert len(frames) == 48
    assert {frame.shape for frame in frames} == {(720, 1280, 3)}
    assert len({frame.tobytes() for frame in frames}) == 48


def test_frames_of_a_clip_are_jpeg_and_those_of_a_file_are_sampled_alike(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(draw_mp4(random.Random(0), 3))
    drawn, sampled = draw_frames(random.Random(0), 2), sample_frames(path, 2)
    assert len(drawn) == len(sampled) == 2 * SAMPLED_FPS
    for a, b in zip(drawn, sampled, strict=True):
        with Image.open(BytesIO(a)) as first, Image.open(BytesIO(b)) as second:
            assert first.format == second.format == "JPEG"
            assert first.size == second.size == (1280, 720)
            pixels = [image.resize((8, 8)).tobytes() for image in (first, second)]
            assert max(abs(x - y) for x, y in zip(*pixels, strict=True)) < 16


def test_a_file_that_is_no_video_is_refused_when_its_frames_are_wanted(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"no video")
    with pytest.raises(WorkloadError, match="no frames"):
        sample_frames(path, 2)


def test_files_of_a_folder_are_sent_as_they_are_and_each_once_in_a_pass(tmp_path: Path) -> None:
    media = MediaFolder(make_folder(tmp_path, num_images=5), seed=0, video_seconds=1)
    sent = [url(media.image(number)) for number in range(10)]
    files = {path.read_bytes() for path in tmp_path.glob("*.png")}
    assert {media_type for media_type, _ in sent} == {"image/png"}
    assert {data for _, data in sent[:5]} == {data for _, data in sent[5:]} == files
    assert len(files) == media.num_images == 5
    assert sent[:5] != sent[5:]
    other = MediaFolder(tmp_path, seed=1, video_seconds=1)
    assert [url(other.image(number)) for number in range(10)] != sent


def test_the_media_type_is_that_of_the_file_whatever_its_name_says(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.jpg", "WEBP")
    media = MediaFolder(tmp_path, seed=0, video_seconds=1)
    assert url(media.image(0))[0] == "image/webp"


def test_a_folder_feeds_every_kind_of_media(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, num_images=60, num_videos=4)
    options = WorkloadOptions(
        name="mixed", media_dir=folder, turns=3, pages=2, video_seconds=1, window_seconds=1
    )
    workload = Workload(options)
    assert workload.num_distinct is not None
    assert workload.num_distinct >= 20
    conversations = [workload.conversation(index) for index in range(20)]
    assert sum(conversation[-1].num_videos for conversation in conversations) == 2
    assert sum(conversation[-1].num_images for conversation in conversations) == 5 + 5 + 2 * 3 + 2


def test_the_workload_says_when_a_folder_runs_out(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, num_images=10)

    def num_distinct(**options: Any) -> int | None:
        return Workload(WorkloadOptions(media_dir=folder, **options)).num_distinct

    assert num_distinct(name="images") == 10
    assert num_distinct(name="documents", pages=3) == 3
    assert num_distinct(name="reuse", reuse=0.75) == 40
    assert num_distinct(name="reuse", reuse=1.0) is None
    assert num_distinct(name="chat") is None


def test_a_folder_without_what_is_needed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="does not exist"):
        Workload(WorkloadOptions(name="images", media_dir=tmp_path / "none"))
    with pytest.raises(WorkloadError, match="has no images, which `agent` needs"):
        Workload(WorkloadOptions(name="agent", media_dir=tmp_path))
    with pytest.raises(WorkloadError, match="has no videos, which `mixed` needs"):
        Workload(WorkloadOptions(name="mixed", media_dir=make_folder(tmp_path, 1)))
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(WorkloadError, match=r"broken\.jpg is not an image"):
        Workload(WorkloadOptions(name="images", media_dir=tmp_path))
