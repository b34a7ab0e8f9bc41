"""The vision cache of a real server: what is decoded and encoded, how often, and for whom."""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.real_cache import (
    Counts,
    Reply,
    ask,
    count,
    data_url,
    entries,
    frames_part,
    picture,
    picture_part,
    start,
    window_part,
)
from tests.e2e.real_media import text
from tests.e2e.real_server import RealServer, wait_until
from tests.fake_backend import image_part

NOTHING = Counts(decoded=0, encoded=0, retries=0)
QUESTION = text("What is it?")


@pytest.fixture(scope="module")
def server(logs: Path) -> Iterator[RealServer]:
    """What it has seen stays in the cache, so each test sends media, or a key, of its own."""
    with start(logs / "cache") as server:
        yield server


@dataclass(frozen=True)
class Asked:
    """One request, and what was done for it."""

    reply: Reply
    done: Counts


def ask_and_count(server: RealServer, content: Any, **options: Any) -> Asked:
    before = count(server)
    reply = ask(server, content, **options)
    return Asked(reply, count(server) - before)


# --- repeated media

PARTS = {
    "png": [picture_part(1)],
    "jpeg": [picture_part(1, "JPEG")],
    "video": [window_part(0, 2)],
    "frames": [frames_part([2, 3, 4, 5])],
    "all": [picture_part(1), window_part(0, 2), frames_part([2, 3, 4, 5])],
}


@pytest.fixture(scope="module", params=PARTS)
def first_and_second(request: pytest.FixtureRequest, server: RealServer) -> tuple[Asked, Asked]:
    """Media that are new, and the same media again: in another order, between other words."""
    parts, key = PARTS[request.param], f"repeats {request.param}"
    first = ask_and_count(server, [*parts, QUESTION], api_key=key)
    content = [text("Look here, and then there:"), *reversed(parts), text("What else is there?")]
    second = ask_and_count(server, content, api_key=key)
    return first, second


def test_new_media_are_decoded_and_encoded(first_and_second: tuple[Asked, Asked]):
    first, _ = first_and_second
    num_items = len(first.reply.sources)
    assert first.reply.sources == ("encoded",) * num_items
    assert first.done == Counts(decoded=num_items, encoded=num_items, retries=0)


def test_repeated_media_are_neither_decoded_nor_encoded(first_and_second: tuple[Asked, Asked]):
    first, second = first_and_second
    assert second.reply.sources == ("device",) * len(first.reply.sources)
    assert second.done == NOTHING


def test_repeated_media_get_the_answer_of_new_ones(server: RealServer):
    content = [text("Look:"), *PARTS["jpeg"], *PARTS["all"], QUESTION]
    new = ask(server, content, api_key="sees them first")
    for part in (*PARTS["jpeg"], *PARTS["all"]):
        ask(server, [part, QUESTION], api_key="has seen them")
    again = ask(server, content, api_key="has seen them")
    assert set(new.sources) == {"encoded"}
    assert set(again.sources) == {"device"}
    again.assert_same_as(new)


def test_an_image_three_times_in_one_request_is_decoded_and_encoded_once(server: RealServer):
    part = picture_part(6)
    asked = ask_and_count(server, [part, text("or"), part, part, QUESTION])
    assert asked.done == Counts(decoded=1, encoded=1, retries=0)
    assert sorted(asked.reply.sources) == ["device", "device", "encoded"]


def test_an_image_of_32_clients_at_once_is_decoded_and_encoded_once(server: RealServer):
    """Eight times: it is a matter of moments which of the clients know of each other."""
    before = count(server)
    with ThreadPoolExecutor(32) as threads:
        for seed in range(80, 88):
            content = [picture_part(seed), QUESTION]
            replies = list(threads.map(lambda _: ask(server, content), range(32)))  # noqa: B023
            for reply in replies:
                reply.assert_same_as(replies[0])
    assert count(server) - before == Counts(decoded=8, encoded=8, retries=0)


def test_one_image_in_two_formats_is_two_images(server: RealServer):
    ask(server, [picture_part(7), QUESTION])
    asked = ask_and_count(server, [picture_part(7, "JPEG"), QUESTION])
    assert asked.done == Counts(decoded=1, encoded=1, retries=0)


def test_another_size_of_an_image_is_another_image(server: RealServer):
    ask(server, [picture_part(8), QUESTION])
    small = picture_part(8)
    small["image_url"]["max_pixels"] = 8192
    asked = ask_and_count(server, [small, QUESTION])
    assert asked.done == Counts(decoded=1, encoded=1, retries=0)


# --- sliding windows


def test_overlapping_windows_encode_only_what_is_new(server: RealServer):
    windows = [(0, 2), (1, 3), (0, 3)]
    asked = [
        ask_and_count(server, [window_part(*window), QUESTION], api_key="windows")
        for window in windows
    ]
    assert [one.reply.sources for one in asked] == [
        ("encoded", "encoded"),
        ("device", "encoded"),
        ("device", "device", "device"),
    ]
    assert [one.done.encoded for one in asked] == [2, 1, 0]
    assert [one.done.decoded for one in asked] == [2, 1, 0]


def test_sliding_lists_of_frames_encode_only_what_is_new(server: RealServer):
    lists = [[11, 12, 13, 14], [13, 14, 15, 16], [11, 12, 15, 16], [12, 13, 14, 15]]
    asked = [ask_and_count(server, [frames_part(seeds), QUESTION]) for seeds in lists]
    assert [one.reply.sources for one in asked] == [
        ("encoded", "encoded"),
        ("device", "encoded"),
        ("device", "device"),
        ("encoded", "encoded"),  # other pairs
    ]
    assert [one.done.encoded for one in asked] == [2, 1, 0, 2]


# --- tenants


@pytest.fixture(scope="module")
def shared(logs: Path) -> Iterator[RealServer]:
    with start(logs / "cache_shared", tenant_salt="none") as server:
        yield server


def test_clients_with_different_keys_share_nothing(server: RealServer):
    content = [*map(picture_part, range(20, 24)), QUESTION]  # more than a block of the KV cache
    asked = [ask_and_count(server, content, api_key=key) for key in ("alice", "bob")]
    for one in asked:
        assert one.reply.sources == ("encoded",) * 4
        assert one.done == Counts(decoded=4, encoded=4, retries=0)


def test_clients_with_one_key_share(server: RealServer):
    content = [picture_part(24), QUESTION]
    asked = [ask_and_count(server, content, api_key="alice") for _ in range(2)]
    assert asked[1].done == NOTHING


def test_clients_with_different_keys_share_if_there_is_no_salt(shared: RealServer):
    content = [*map(picture_part, range(20, 24)), QUESTION]
    asked = [ask_and_count(shared, content, api_key=key) for key in ("alice", "bob")]
    assert asked[1].done == NOTHING
    assert set(asked[1].reply.sources) <= {"prefix", "device"}
    asked[1].reply.assert_same_as(asked[0].reply)


# --- damaged images


def half(data: bytes) -> bytes:
    """Of an image file: its header is whole, so it has a size and a key."""
    return data[: len(data) // 2]


def test_an_image_that_does_not_decode_is_refused_every_time(server: RealServer):
    corrupt = image_part(data_url(half(picture(30))))
    before = count(server)
    for _ in range(3):
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            ask(server, [picture_part(31), corrupt, QUESTION])
        assert caught.value.code == "corrupt_image"
    assert (count(server) - before).encoded == 0


def test_a_list_with_a_frame_that_does_not_decode_is_refused_every_time(server: RealServer):
    part = frames_part([32, 33, 34, 35])
    part["video"][2] = data_url(half(picture(34)))
    for _ in range(3):
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            ask(server, [part, QUESTION])
        assert caught.value.code == "corrupt_image"


# --- restarts


@dataclass(frozen=True)
class Restarted:
    """The same request before and after: with all tiers, and when the host tier was lost."""

    first: Asked
    with_host: Asked
    with_disk: Asked
    is_host_filled: bool


@pytest.fixture(scope="module")
def restarted(logs: Path) -> Restarted:
    host_dir, disk_dir = logs / "kept_host", logs / "kept_disk"
    content = [picture_part(40), window_part(0, 2), frames_part([41, 42, 43, 44]), QUESTION]
    num_items = 5

    def run(name: str) -> Asked:
        options = {"host_dir": host_dir, "disk_dir": disk_dir}
        with start(logs / name, **options) as server:
            asked = ask_and_count(server, content)
            for directory in (host_dir, disk_dir):
                wait_until(lambda: len(entries(directory)) == num_items)  # noqa: B023
        return asked

    first = run("kept_first")
    with_host = run("kept_second")
    shutil.rmtree(host_dir)
    with_disk = run("kept_third")
    return Restarted(first, with_host, with_disk, len(entries(host_dir)) == num_items)


def test_restarted_server_takes_from_the_host_tier(restarted: Restarted):
    assert restarted.first.reply.sources == ("encoded",) * 5
    assert restarted.with_host.reply.sources == ("host",) * 5
    assert restarted.with_host.done == NOTHING
    restarted.with_host.reply.assert_same_as(restarted.first.reply)


def test_restarted_server_takes_from_the_disk_tier_if_the_host_tier_is_lost(restarted: Restarted):
    assert restarted.with_disk.reply.sources == ("disk",) * 5
    assert restarted.with_disk.done == NOTHING
    restarted.with_disk.reply.assert_same_as(restarted.first.reply)


def test_what_the_disk_tier_had_is_written_to_the_host_tier(restarted: Restarted):
    assert restarted.is_host_filled


# --- preemption in mid-stream

NUM_SEQUENCES = 4
LENGTH = 320  # tokens: a sequence comes to need three blocks of the KV cache, which has nine
OTHERS = [[picture_part(seed), picture_part(seed + 1)] for seed in range(1, 9, 2)]  # a block each


@pytest.fixture(scope="module")
def cramped(logs: Path) -> Iterator[RealServer]:
    """A KV cache of nine blocks of 128 tokens, and a device tier of seven pictures alone."""
    options = {"max_model_len": 512, "max_num_batched_tokens": 256, "kv_cache_bytes": 6_000_000}
    with start(logs / "cramped", host_bytes=0, device_bytes=1, **options) as server:
        yield server


@dataclass(frozen=True)
class Preempted:
    """Requests that were preempted, and what was done since all of them were under way."""

    replies: list[Reply]
    expected: list[Reply]
    num_preemptions: int
    done: Counts


def preempt(
    cramped: RealServer, server: RealServer, start: int, *, is_known: bool, **options: Any
) -> Preempted:
    """Other pictures take the place of theirs on the device; then the KV cache becomes too small.

    Args:
        start: the first of the pictures.
        is_known: whether the requests come to the engine without patches.
    """
    seeds = range(start, start + NUM_SEQUENCES // options.get("n", 1))
    contents = [[picture_part(seed), text("Describe it at length.")] for seed in seeds]
    num_before = cramped.sample("vllm:num_preemptions_total")
    with ThreadPoolExecutor(len(contents)) as threads:
        first = [content if is_known else "hi" for content in contents]
        list(threads.map(lambda content: ask(cramped, content, max_tokens=1, **options), first))
        running = [
            threads.submit(ask, cramped, content, max_tokens=LENGTH, **options)
            for content in contents
        ]
        wait_until(lambda: are_all_running(cramped, num_before))
        before = count(cramped)
        for parts in OTHERS:
            ask(cramped, parts, api_key=f"takes the place of {start}", max_tokens=1)
        replies = [future.result() for future in running]
    num_preemptions = int(cramped.sample("vllm:num_preemptions_total") - num_before)
    done = count(cramped) - before
    with ThreadPoolExecutor(len(contents)) as threads:
        options |= {"max_tokens": LENGTH, "is_streamed": False}
        expected = list(threads.map(lambda content: ask(server, content, **options), contents))
    return Preempted(replies, expected, num_preemptions, done)


def are_all_running(cramped: RealServer, num_preemptions_before: float) -> bool:
    """Or were, on a machine that was too busy to see it."""
    num_preemptions = cramped.sample("vllm:num_preemptions_total") - num_preemptions_before
    return num_preemptions > 0 or cramped.sample("vllm:num_requests_running") == NUM_SEQUENCES


def preempt_until(is_late: Callable[[Preempted], bool], *args: Any, **options: Any) -> Preempted:
    """With other pictures again where the requests were preempted before theirs were replaced."""
    for first in range(args[-1], args[-1] + 500, 100):
        preempted = preempt(*args[:-1], first, **options)
        assert_same_answers(preempted)
        if is_late(preempted):
            return preempted
    raise AssertionError(f"preempted too early each time, the last one: {preempted.done}")


def assert_same_answers(preempted: Preempted) -> None:
    assert preempted.num_preemptions > 0
    for reply, expected in zip(preempted.replies, preempted.expected, strict=True):
        assert len(reply.tokens[0]) == LENGTH
        reply.assert_same_as(expected)


def were_asked_for(preempted: Preempted) -> bool:
    return preempted.done.retries > 0


def test_preempted_streams_go_on_with_patches_that_the_server_is_asked_for(
    cramped: RealServer, server: RealServer
):
    preempt_until(were_asked_for, cramped, server, 50, is_known=True, is_streamed=True)


def test_preempted_streams_go_on_with_patches_that_they_brought(
    cramped: RealServer, server: RealServer
):
    def were_encoded(preempted: Preempted) -> bool:
        assert preempted.done.retries == 0
        return preempted.done.encoded > sum(map(len, OTHERS))

    preempt_until(were_encoded, cramped, server, 60, is_known=False, is_streamed=True)


def test_preempted_choices_are_drawn_as_if_nothing_had_happened(
    cramped: RealServer, server: RealServer
):
    options = {"n": 2, "seed": 5, "temperature": 1.0, "is_streamed": True}
    preempted = preempt_until(were_asked_for, cramped, server, 70, is_known=True, **options)
    assert all(reply.tokens[0] != reply.tokens[1] for reply in preempted.replies)
