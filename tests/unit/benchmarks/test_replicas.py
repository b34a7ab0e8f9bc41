import random

import orjson

from benchmarks.replicas import Answer, Setup, draw_requests, make_row, router_launch, table

SETUP = Setup("consistent_hash", shares_disk=True)


def test_each_conversation_gets_a_picture_each_turn_and_resends_the_others() -> None:
    requests = draw_requests(random.Random(0))
    seen: dict[int, list[str]] = {}
    for request in requests:
        messages = orjson.loads(request.body)["messages"]
        pictures = [m["content"][0]["image_url"]["url"] for m in messages if m["role"] == "user"]
        assert pictures[:-1] == seen.get(request.conversation, [])
        assert pictures[-1] not in pictures[:-1]
        seen[request.conversation] = pictures
    assert {len(pictures) for pictures in seen.values()} == {6}
    assert len(seen) == 8


def test_shares_are_of_all_pictures_and_tokens() -> None:
    answers = [
        Answer(["encoded"], num_prompt_tokens=100, num_cached_tokens=0, seconds=3.0),
        Answer(["prefix", "host", "encoded"], 300, 100, 1.0),
    ]
    row = make_row(SETUP, answers)
    assert row.num_pictures == 4
    assert row.source_shares == {
        "prefix": 0.25,
        "device": 0,
        "host": 0.25,
        "disk": 0,
        "encoded": 0.5,
    }
    assert row.cached_token_share == 0.25
    assert row.median_s == 2.0
    assert table([row]).splitlines()[-1] == (
        "| consistent_hash | shared | 25% | 0% | 25% | 0% | 50% | 25% | 2.00 s |"
    )


def test_the_router_knows_the_replicas() -> None:
    launch = router_launch("round_robin", ["http://127.0.0.1:1", "http://127.0.0.1:2"])
    assert launch.command[-3:] == ["--worker-urls", "http://127.0.0.1:1", "http://127.0.0.1:2"]
    assert "round_robin" in launch.command
