import asyncio
import base64

import pytest

from multimodal.errors import MediaError, MediaTooLarge, UnsupportedMedia
from multimodal.items import FramesRef, ImageRef, VideoRef
from multimodal.options import MediaOptions
from server.conversation import MediaSource
from server.media_fetch import FetchFailed
from server.media_refs import count_bytes, load_media_refs
from server.settings import MediaSettings
from tests.fake_backend import FakeFetcher

OPTIONS = MediaOptions(max_pixels=99)


def data_url(payload: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(payload).decode()}"


def make_source(kind: str, *urls: str, param: str = "here") -> MediaSource:
    return MediaSource(kind, urls, OPTIONS, param)


async def load(*sources: MediaSource, fetcher=None, **settings):
    return await load_media_refs(sources, fetcher or FakeFetcher(), MediaSettings(**settings))


async def test_data_url_becomes_an_image():
    assert await load(make_source("image", data_url(b"abc"))) == [ImageRef(b"abc", OPTIONS, "here")]


async def test_scheme_of_a_data_url_may_be_upper_case():
    url = data_url(b"abc").replace("data", "DATA")
    assert (await load(make_source("image", url)))[0].data == b"abc"


async def test_https_url_becomes_a_video():
    fetcher = FakeFetcher(b"mp4")
    refs = await load(make_source("video", "https://a.example/v"), fetcher=fetcher)
    assert refs == [VideoRef(b"mp4", OPTIONS, "here")]
    assert fetcher.urls == ["https://a.example/v"]


async def test_listed_frames_stay_in_order():
    urls = [data_url(bytes([index])) for index in range(5)]
    refs = await load(make_source("frames", *urls))
    assert refs == [FramesRef((b"\0", b"\1", b"\2", b"\3", b"\4"), OPTIONS, "here")]


async def test_data_url_of_several_frames_is_taken_apart():
    url = data_url(b"one", "video/jpeg") + "," + base64.b64encode(b"two").decode()
    refs = await load(make_source("frames", url))
    assert refs[0].frames == (b"one", b"two")


async def test_frames_of_a_data_url_are_counted_against_the_setting():
    url = data_url(b"one", "video/jpeg") + "," + base64.b64encode(b"two").decode()
    assert len((await load(make_source("frames", url), max_frames=2))[0].frames) == 2
    with pytest.raises(MediaTooLarge, match="more than 2 frames") as caught:
        await load(make_source("frames", f"{url},YWJj"), max_frames=2)
    assert (caught.value.code, caught.value.param) == ("too_many_frames", "here")


async def test_several_frames_are_no_image():
    url = data_url(b"one", "video/jpeg") + "," + base64.b64encode(b"two").decode()
    with pytest.raises(UnsupportedMedia, match="2 items"):
        await load(make_source("image", url))


async def test_fault_in_a_frame_points_at_the_frame():
    with pytest.raises(MediaError) as caught:
        await load(make_source("frames", data_url(b"a"), "data:image/png;base64,?"))
    assert caught.value.param == "here[1]"


async def test_too_many_items_point_at_the_first_one_over():
    sources = [make_source("image", data_url(b"a"), param=str(index)) for index in range(4)]
    with pytest.raises(MediaTooLarge, match=r"4 .*at most 2") as caught:
        await load(*sources, max_items_per_request=2)
    assert (caught.value.code, caught.value.param) == ("too_many_media_items", "2")


async def test_too_many_listed_frames_are_refused_before_fetching():
    fetcher = FakeFetcher()
    with pytest.raises(MediaTooLarge, match=r"3 frames; at most 2"):
        await load(make_source("frames", *["https://a/"] * 3), fetcher=fetcher, max_frames=2)
    assert fetcher.urls == []


async def test_fetched_urls_are_counted_over_the_whole_request():
    fetcher = FakeFetcher()
    data = make_source("frames", *[data_url(b"a")] * 3)
    fitting = [make_source("frames", *["https://a/"] * 2), data, make_source("image", "https://b/")]
    assert len(await load(*fitting, fetcher=fetcher, max_frames=3)) == 3
    fetcher.urls.clear()
    with pytest.raises(MediaTooLarge, match=r"more than 3 URLs") as caught:
        last = make_source("image", "https://c/", param="last")
        await load(*fitting, last, fetcher=fetcher, max_frames=3)
    assert (caught.value.code, caught.value.param) == ("too_many_media_urls", "last")
    assert fetcher.urls == []


async def test_image_over_its_limit_is_refused():
    with pytest.raises(MediaTooLarge, match="3 bytes"):
        await load(make_source("image", data_url(b"abcd")), max_image_bytes=3)


async def test_media_of_a_request_share_one_budget():
    fetcher = FakeFetcher(b"abcd")
    sources = [make_source("image", "https://a/"), make_source("image", "https://b/")]
    with pytest.raises(MediaTooLarge, match="7 bytes"):
        await load(*sources, fetcher=fetcher, max_request_bytes=7)


async def test_first_failure_cancels_the_other_fetches():
    class HalfBrokenFetcher(FakeFetcher):
        cancelled = False

        async def fetch(self, url, *, max_bytes, param, hold):
            if url.endswith("broken"):
                raise FetchFailed("no answer")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled = True
                raise

    fetcher = HalfBrokenFetcher()
    sources = [make_source("image", "https://a/slow"), make_source("image", "https://a/broken")]
    with pytest.raises(FetchFailed):
        await load(*sources, fetcher=fetcher)
    assert fetcher.cancelled


def test_bytes_of_frames_are_added_up():
    assert count_bytes(FramesRef((b"ab", b"cde"), OPTIONS, "")) == 5
    assert count_bytes(ImageRef(b"abc", OPTIONS, "")) == 3
