"""Caches of a real server that an operator empties; media by file URLs, and hosts that are denied.

The server has all tiers, and one folder of media.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.real_cache import ask, entries, picture, picture_part, start
from tests.e2e.real_media import text
from tests.e2e.real_server import RealServer, open_stream, wait_until
from tests.fake_backend import image_part

QUESTION = text("What is it?")


@pytest.fixture(scope="module")
def folder(logs: Path) -> Path:
    path = logs / "reset_media"
    path.mkdir()
    (path / "picture.png").write_bytes(picture(5))
    (path / "link.png").symlink_to(path / "picture.png")
    return path


@pytest.fixture(scope="module")
def server(logs: Path, folder: Path) -> Iterator[RealServer]:
    options: dict[str, Any] = {
        "host_dir": logs / "reset_host",
        "disk_dir": logs / "reset_disk",
        "allowed_local_media_path": folder,
        "denied_domains": "*.denied.example",
    }
    with start(logs / "reset", **options) as server:
        yield server


def reset(server: RealServer, path: str) -> httpx.Response:
    return httpx.post(f"{server.base_url}{path}", timeout=60)


def num_entries(logs: Path) -> tuple[int, int]:
    return len(entries(logs / "reset_host")), len(entries(logs / "reset_disk"))


def test_an_image_is_found_in_what_is_left_and_encoded_again_when_nothing_is(
    server: RealServer, logs: Path
) -> None:
    content = [picture_part(1), QUESTION]
    first = ask(server, content)
    assert first.sources == ("encoded",)
    assert ask(server, content).sources == ("device",)
    wait_until(lambda: num_entries(logs) == (1, 1))
    for tiers, source in (
        ("tiers=device", "host"),
        ("tiers=device&tiers=host", "disk"),
        ("tiers=disk", "device"),
        ("", "encoded"),
    ):
        answer = reset(server, f"/reset_encoder_cache?{tiers}")
        assert answer.status_code == 200, answer.text
        again = ask(server, content)
        assert again.sources == (source,), tiers
        again.assert_same_as(first)
        wait_until(lambda: num_entries(logs)[0] == 1)


def test_the_files_of_all_tiers_are_gone(server: RealServer, logs: Path) -> None:
    ask(server, [picture_part(2), picture_part(3), QUESTION])
    wait_until(lambda: min(num_entries(logs)) >= 2)
    assert reset(server, "/reset_encoder_cache").status_code == 200
    assert num_entries(logs) == (0, 0)


def test_a_prompt_is_computed_again_after_the_prefix_cache_was_emptied(server: RealServer) -> None:
    prompt = "count " * 300

    def num_cached() -> int:
        completion = server.ask(prompt, max_tokens=1)
        return completion.usage.prompt_tokens_details.cached_tokens

    assert num_cached() == 0
    assert num_cached() > 0
    assert reset(server, "/reset_prefix_cache").json() == {"success": True}
    assert num_cached() == 0


def test_neither_cache_is_emptied_under_a_running_answer(server: RealServer) -> None:
    with open_stream(server, "Go on and on.", max_tokens=400, ignore_eos=True) as lines:
        next(lines)
        refused = [reset(server, path) for path in ("/reset_prefix_cache", "/reset_encoder_cache")]
        num_left = sum(1 for _ in lines)
    assert num_left > 10
    assert [answer.status_code for answer in refused] == [409, 409]
    assert {answer.json()["error"]["code"] for answer in refused} == {"requests_running"}


def test_an_image_of_a_refused_request_is_seen_by_the_next_one(server: RealServer) -> None:
    """GHSA-ph3r-5jfg-f84f: one side of a cache remembered what had never reached the other."""
    content = [picture_part(4), QUESTION]
    with pytest.raises(openai.BadRequestError):
        server.ask(content, logit_bias={99999: 1})
    reply = ask(server, content)
    assert reply.sources == ("encoded",)
    assert reset(server, "/reset_encoder_cache").status_code == 200
    ask(server, content).assert_same_as(reply)


def test_a_file_url_is_the_same_image_as_its_bytes(server: RealServer, folder: Path) -> None:
    by_url = ask(server, [image_part(f"file://{folder}/picture.png"), QUESTION])
    by_bytes = ask(server, [picture_part(5), QUESTION])
    assert by_bytes.sources == ("device",)
    by_bytes.assert_same_as(by_url)


@pytest.mark.parametrize(
    ("url", "status", "code"),
    [
        ("file://{folder}/link.png", 422, "fetch_failed"),
        ("file://{folder}/nothing.png", 422, "fetch_failed"),
        ("file://{folder}/../reset", 400, "url_not_allowed"),
        ("file:///etc/passwd", 400, "url_not_allowed"),
        ("https://localhost/a.png", 400, "url_not_allowed"),
        ("https://169.254.169.254/latest", 400, "url_not_allowed"),
    ],
)
def test_what_may_not_be_read_is_refused_without_a_word_of_it(
    server: RealServer, folder: Path, url: str, status: int, code: str
) -> None:
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": [image_part(url.format(folder=folder))]}],
    }
    answer = httpx.post(f"{server.base_url}/v1/chat/completions", json=body, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert str(folder) not in answer.text and "169.254" not in answer.text
    assert len(server.ask("hi", max_tokens=1).choices) == 1


def test_a_denied_host_is_refused_as_such(server: RealServer) -> None:
    with pytest.raises(openai.BadRequestError, match="among the denied domains"):
        server.ask([image_part("https://a.denied.example/a.png"), QUESTION])
