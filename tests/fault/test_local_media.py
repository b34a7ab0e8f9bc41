"""`file://` URLs: media below one folder, and nothing else of the machine, whatever a URL says."""

import asyncio
import os
import random
import socket
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from multimodal.errors import MediaError, MediaTooLarge
from multimodal.items import ImageRef
from multimodal.options import MediaOptions
from server.conversation import MediaSource
from server.local_media import LocalMedia
from server.media_fetch import MediaFetcher
from server.media_refs import load_media_refs
from server.media_url import UrlNotAllowed
from server.settings import MediaSettings, SettingsError, load_settings
from tests.fake_backend import Server, assert_error, image_part

HANG_S = 30
DATA = b"an image"
UNREADABLE = "the media file cannot be read"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`media` may be read; `outside` and all that lies beside it may not."""
    media = tmp_path / "media"
    (media / "inner").mkdir(parents=True)
    (media / "a.png").write_bytes(DATA)
    (media / "inner" / "b c%.png").write_bytes(DATA)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.png").write_bytes(b"s3cr3t")
    (tmp_path / "media-other").mkdir()
    (tmp_path / "media-other" / "secret.png").write_bytes(b"s3cr3t")
    return media


@pytest.fixture
async def local(folder: Path) -> AsyncIterator[LocalMedia]:
    media = LocalMedia(folder, HANG_S)
    yield media
    media.close()


async def read(local: LocalMedia, url: str, max_bytes: int = 100) -> bytes:
    return await local.read(url, max_bytes=max_bytes)


async def assert_outside(local: LocalMedia, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused by what the URL says: the disk is not asked."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a path that is not allowed was looked at")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        with pytest.raises(UrlNotAllowed) as caught:
            await read(local, url)
    assert caught.value.code == "url_not_allowed"
    assert "s3cr3t" not in caught.value.message and "/tmp" not in caught.value.message


async def assert_unreadable(local: LocalMedia, url: str) -> None:
    with pytest.raises(MediaError) as caught:
        await read(local, url)
    assert (caught.value.message, caught.value.code) == (UNREADABLE, "fetch_failed")


@pytest.mark.parametrize("path", ["a.png", "inner/b%20c%25.png", "%61.png", "inner/b%20c%25%2Epng"])
async def test_a_file_below_the_folder_is_read(local: LocalMedia, folder: Path, path: str) -> None:
    assert await read(local, f"file://{folder}/{path}") == DATA
    assert await read(local, f"FILE://{folder}/{path}") == DATA


@pytest.mark.parametrize(
    "path",
    [
        "{root}/outside/secret.png",
        "{root}/outside/nothing.png",
        "{root}/media-other/secret.png",
        "{root}/media",
        "{root}/media/",
        "{root}/media//a.png",
        "{root}/media/./a.png",
        "{root}/media/../outside/secret.png",
        "{root}/media/../media/a.png",
        "{root}/media/..",
        "{root}/media/%2e%2e/outside/secret.png",
        "{root}/media/.%2E/outside/secret.png",
        "{root}/media/..%2foutside%2fsecret.png",
        "{root}/media/%2e%2e%2foutside/secret.png",
        "{root}/media%2fa.png",
        "{root}/media/a.png%00.jpg",
        "{root}/media/%00",
        "{root}/media/a.png\0",
        "{root}/media/a.png?x",
        "{root}/media/a.png#x",
        "{root}/media/a png",
        "{root}/media/a%2.png",
        "{root}/media/%zz",
        "{root}/media/..\\outside\\secret.png",
        "{root}/MEDIA/a.png",
        "/etc/passwd",
        "/proc/self/environ",
        "/dev/zero",
        "/",
        "",
        "//etc/passwd",
    ],
)
async def test_what_lies_elsewhere_is_refused_unseen(
    local: LocalMedia, folder: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await assert_outside(local, "file://" + path.format(root=folder.parent), monkeypatch)


@pytest.mark.parametrize(
    "start", ["file://localhost", "file://evil.example", "file://127.0.0.1", "file:", "file:/"]
)
async def test_a_host_or_another_spelling_is_refused(
    local: LocalMedia, folder: Path, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await assert_outside(local, f"{start}{folder}/a.png", monkeypatch)


async def test_no_link_is_followed(local: LocalMedia, folder: Path) -> None:
    outside = folder.parent / "outside"
    (folder / "link.png").symlink_to(outside / "secret.png")
    (folder / "inside-link.png").symlink_to(folder / "a.png")
    (folder / "link").symlink_to(outside)
    (folder / "inner" / "up").symlink_to("../..")
    (folder / "dangling.png").symlink_to(outside / "nothing.png")
    for path in (
        "link.png",
        "inside-link.png",
        "link/secret.png",
        "link/nothing.png",
        "inner/up/outside/secret.png",
        "dangling.png",
    ):
        await assert_unreadable(local, f"file://{folder}/{path}")


async def test_the_folder_itself_may_be_a_link(folder: Path) -> None:
    (folder.parent / "current").symlink_to(folder)
    local = LocalMedia(folder.parent / "current", HANG_S)
    assert await read(local, f"file://{folder.parent}/current/a.png") == DATA
    local.close()


async def test_a_folder_that_becomes_a_link_meanwhile_leads_nowhere(
    local: LocalMedia, folder: Path
) -> None:
    """The classic race: a name is swapped between the check and the use of it."""
    inner, link = folder / "swap", folder / "swap-link"
    link.symlink_to(folder.parent / "outside")
    inner.mkdir()
    (inner / "secret.png").write_bytes(DATA)
    is_over = threading.Event()

    def swap() -> None:
        spare = folder / "spare"
        while not is_over.is_set():
            for first, second in ((inner, spare), (link, inner), (inner, link), (spare, inner)):
                first.rename(second)

    thread = threading.Thread(target=swap)
    thread.start()
    outcomes = set()
    try:
        for _ in range(500):
            try:
                outcomes.add(await read(local, f"file://{folder}/swap/secret.png"))
            except MediaError as error:
                assert error.message == UNREADABLE
    finally:
        is_over.set()
        thread.join()
    assert b"s3cr3t" not in outcomes


async def test_what_is_no_regular_file_neither_blocks_nor_is_read(
    local: LocalMedia, folder: Path
) -> None:
    os.mkfifo(folder / "fifo")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(folder / "socket"))
    async with asyncio.timeout(HANG_S):
        for path in ("fifo", "socket", "inner", "nothing.png", "a.png/b", "nothing/a.png"):
            await assert_unreadable(local, f"file://{folder}/{path}")
    listening.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device files")
async def test_a_device_is_not_read(local: LocalMedia, folder: Path) -> None:
    try:
        os.mknod(folder / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("this root may not make device files")
    await assert_unreadable(local, f"file://{folder}/zero")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_a_file_without_permission_looks_like_none(local: LocalMedia, folder: Path) -> None:
    (folder / "a.png").chmod(0)
    await assert_unreadable(local, f"file://{folder}/a.png")


async def test_a_file_over_the_limit_is_refused(local: LocalMedia, folder: Path) -> None:
    url = f"file://{folder}/a.png"
    assert await read(local, url, len(DATA)) == DATA
    with pytest.raises(MediaTooLarge, match=f"exceeds {len(DATA) - 1} bytes"):
        await read(local, url, len(DATA) - 1)


async def test_a_file_that_grows_while_it_is_read_is_cut(folder: Path) -> None:
    """`/proc` and files that are being written have other sizes than they say."""
    local = LocalMedia(Path("/proc"), HANG_S)
    with pytest.raises(MediaTooLarge):
        await read(local, "file:///proc/cpuinfo", 10)
    local.close()


async def test_a_read_that_hangs_is_given_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    local = LocalMedia(folder, 0.1)
    monkeypatch.setattr(local, "_open", lambda names: release.wait() and -1)
    with pytest.raises(MediaError) as caught:
        await read(local, f"file://{folder}/a.png")
    release.set()
    local.close()
    assert caught.value.code == "fetch_timeout"
    assert str(folder) not in caught.value.message


async def test_random_paths_give_the_file_or_an_error_that_tells_nothing(
    local: LocalMedia, folder: Path
) -> None:
    rng = random.Random(0)
    (folder / "link").symlink_to(folder.parent / "outside")
    pieces = ["..", "%2e%2e", ".", "", "link", "inner", "outside", "secret.png", "a.png", "%2f"]
    pieces += ["media", "\0", "%00", "%252e%252e", "..;", "..%c0%af", "%c0%ae%c0%ae", "~", "a"]
    for _ in range(3000):
        path = "/".join(rng.choice(pieces) for _ in range(rng.randrange(1, 5)))
        try:
            data = await read(local, f"file://{folder}/{path}")
        except MediaError as error:
            assert error.message == UNREADABLE or isinstance(error, UrlNotAllowed)
            assert str(folder) not in error.message
        else:
            assert data == DATA


def make_fetcher(local: LocalMedia | None) -> MediaFetcher:
    return MediaFetcher(
        http_allowed=False,
        allowed_domains=(),
        connect_timeout_s=1,
        total_timeout_s=HANG_S,
        max_redirects=0,
        max_parallel=2,
        local=local,
    )


@pytest.mark.parametrize("kind", ["image", "video", "frames"])
async def test_without_a_folder_no_file_url_is_taken(folder: Path, kind: Any) -> None:
    fetcher = make_fetcher(None)
    source = MediaSource(kind, (f"file://{folder}/a.png",), MediaOptions(), "here")
    with pytest.raises(UrlNotAllowed) as caught:
        await load_media_refs([source], fetcher, MediaSettings())
    await fetcher.close()
    assert caught.value.param == "here"
    assert str(folder) not in caught.value.message


async def test_file_urls_are_taken_wherever_media_are(folder: Path) -> None:
    server = Server()
    fetcher = make_fetcher(LocalMedia(folder, HANG_S))
    server.fetcher = fetcher  # type: ignore[assignment]
    server.state.backend = server.backend
    url = f"file://{folder}/a.png"
    video = {"type": "video_url", "video_url": {"url": url}}
    frames = {"type": "video", "video": [url, url]}
    response = await server.post([image_part(url), video, frames])
    assert response.status_code == 200, response.text
    first, second, third = server.pipeline.refs
    assert isinstance(first, ImageRef)
    assert (first.data, second.data, third.frames) == (DATA, DATA, (DATA, DATA))  # type: ignore[union-attr]
    for path, body in (
        (
            "/v1/responses",
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]},
        ),
        (
            "/v1/messages",
            {
                "max_tokens": 5,
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image", "source": {"type": "url", "url": url}}],
                    }
                ],
            },
        ),
    ):
        response = await server.request("POST", path, json={"model": "qwen", **body})
        assert response.status_code == 200, response.text
    missing = await server.post([image_part(f"file://{folder}/none.png")])
    message = assert_error(missing, 422, "fetch_failed", "messages[0].content[0].image_url")
    assert message == UNREADABLE
    outside = await server.post([image_part(f"file://{folder.parent}/outside/secret.png")])
    assert_error(outside, 400, "url_not_allowed", "messages[0].content[0].image_url")
    await fetcher.close()


async def test_a_redirect_to_a_file_is_none(folder: Path) -> None:
    """Only a request names files; `server.media_url` knows no such scheme."""
    fetcher = make_fetcher(LocalMedia(folder, HANG_S))
    with pytest.raises(UrlNotAllowed):
        fetcher._rules.parse(f"file://{folder}/a.png")
    await fetcher.close()


def test_a_folder_that_is_not_there_is_a_settings_error(tmp_path: Path) -> None:
    path = str(tmp_path / "nothing")
    with pytest.raises(SettingsError, match=r"allowed_local_media_path.*must be a folder"):
        load_settings(None, {"media": {"allowed_local_media_path": path}})
