"""Two processes that take requests for one engine: as one server to its clients."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import orjson
import psutil
import pytest

from tests.e2e.real_cache import picture_part
from tests.e2e.real_media import image, text, video
from tests.e2e.real_server import RealServer, make_request, open_stream, wait_until

pytestmark = pytest.mark.slow

_NUM_WORKERS = 2
_QUESTIONS = (
    "What is the capital of France?",
    [image(), text("What is this?")],
    [image("cat_exif6.jpg"), image(), text("Which one is larger?")],
    [video(), text("What happens?")],
)
_GREEDY: dict[str, Any] = {"max_tokens": 16, "temperature": 0}


@pytest.fixture(scope="module")
def workers(hybrid_checkpoint: Path, logs: Path) -> Iterator[RealServer]:
    with RealServer(
        hybrid_checkpoint, logs / "workers", max_model_len=8192, api_workers=_NUM_WORKERS
    ) as server:
        yield server


@pytest.fixture(scope="module")
def forgetful(hybrid_checkpoint: Path, logs: Path) -> Iterator[RealServer]:
    """It remembers seven pictures."""
    with RealServer(
        hybrid_checkpoint,
        logs / "forgetful_workers",
        max_model_len=512,
        max_num_batched_tokens=256,
        api_workers=_NUM_WORKERS,
        host_bytes=0,
        device_bytes=1,
    ) as server:
        yield server


def worker_processes(server: RealServer) -> list[psutil.Process]:
    """Those that listen at the server's address."""
    port = httpx.URL(server.base_url).port

    def listens(process: psutil.Process) -> bool:
        connections = process.net_connections("tcp")
        return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in connections)

    return list(filter(listens, server.process.children()))


def ask_apart(server: RealServer, content: Any, **options: Any) -> dict[str, Any]:
    """Over a connection of its own, which any of the processes may take."""
    url = f"{server.base_url}/v1/chat/completions"
    body = make_request(content, **options)
    body |= body.pop("extra_body", {})
    response = httpx.post(url, json=body, timeout=120)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_the_answers_are_those_of_one_process(workers: RealServer, hybrid: RealServer) -> None:
    expected = [ask_apart(hybrid, question, **_GREEDY) for question in _QUESTIONS]
    with ThreadPoolExecutor(8) as threads:
        found = threads.map(lambda q: ask_apart(workers, q, **_GREEDY), _QUESTIONS * 4)
        for index, answer in enumerate(found):
            assert answer["choices"] == expected[index % len(_QUESTIONS)]["choices"]


def test_all_processes_take_requests(workers: RealServer) -> None:
    processes = worker_processes(workers)
    assert len(processes) == _NUM_WORKERS

    def takes(process: psutil.Process) -> bool:
        connections = process.net_connections("tcp")
        return any(c.status == psutil.CONN_ESTABLISHED for c in connections)

    with ThreadPoolExecutor(16) as threads:
        clients = [httpx.Client(base_url=workers.base_url) for _ in range(64)]
        try:
            answers = list(threads.map(lambda client: client.get("/health"), clients))
            assert {answer.status_code for answer in answers} == {200}
            wait_until(lambda: all(map(takes, processes)))
        finally:
            for client in clients:
                client.close()


def test_the_page_is_the_same_from_all_processes(workers: RealServer) -> None:
    answers = [httpx.get(f"{workers.base_url}/") for _ in range(16)]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.headers["etag"] for answer in answers}) == 1


def test_metrics_are_of_all_processes(workers: RealServer) -> None:
    name = "qwen3vl_requests_total"
    before = workers.sample(name, outcome="done")
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda i: ask_apart(workers, f"{i}?", max_tokens=1), range(16)))
    shown = [httpx.get(f"{workers.base_url}/metrics").text for _ in range(8)]
    for page in shown:
        lines = [line for line in page.splitlines() if line.startswith(name)]
        assert sum(float(line.split()[-1]) for line in lines if "done" in line) == before + 16
        assert "qwen3vl_vision_cache_hits_total" in page
        assert "vllm:generation_tokens_total" in page
    assert workers.sample("qwen3vl_requests_in_flight") == 0


def test_what_one_process_was_shown_is_known_to_the_others(workers: RealServer) -> None:
    question = [image("coffee.webp"), text("What is this?")]
    ask_apart(workers, question, max_tokens=1)
    wait_until(lambda: workers.sample("qwen3vl_vision_cache_written_bytes_total", tier="host") > 0)
    before = workers.sample("qwen3vl_vision_cache_encoded_total")
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: ask_apart(workers, question, max_tokens=1), range(16)))
    wait_until(lambda: workers.sample("vllm:num_requests_running") == 0)
    assert workers.sample("qwen3vl_vision_cache_encoded_total") == before


def test_patches_come_from_the_process_that_has_the_request(forgetful: RealServer) -> None:
    """The engine's questions reach one process; the request may be another's."""
    questions = [[picture_part(seed), text(f"{i}")] for i in range(4) for seed in range(14)]
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda q: ask_apart(forgetful, q, max_tokens=1), questions))
    assert all(answer["usage"]["completion_tokens"] == 1 for answer in answers)
    assert forgetful.sample("qwen3vl_vision_cache_retries_total") > 0


def test_responses_are_not_kept(workers: RealServer) -> None:
    answer = workers.client.responses.create(model="tiny", input="hi", max_output_tokens=1)
    found = workers.http.get(f"/v1/responses/{answer.id}")
    assert found.status_code == 404


def test_the_death_of_the_engine_ends_all(hybrid_checkpoint: Path, tmp_path: Path) -> None:
    options = {"max_tokens": 30_000, "ignore_eos": True}
    with RealServer(
        hybrid_checkpoint, tmp_path / "log", max_model_len=32768, api_workers=_NUM_WORKERS
    ) as server:
        with open_stream(server, "hi", **options) as lines:
            events = [next(lines) for _ in range(10)]
            server.engine_process.kill()
            events += list(lines)
        assert server.wait() == 1
        server.assert_nothing_left()
    *_, last, done = [event.removeprefix("data: ") for event in events if event]
    assert done == "[DONE]"
    assert orjson.loads(last)["error"]["code"] == "engine_dead"
    assert "the engine has stopped" in server.log


@pytest.mark.parametrize("victim", ["worker", "server"])
def test_none_outlives_another(hybrid_checkpoint: Path, tmp_path: Path, victim: str) -> None:
    with RealServer(
        hybrid_checkpoint, tmp_path / "log", max_model_len=256, api_workers=_NUM_WORKERS
    ) as server:
        process = server.process if victim == "server" else worker_processes(server)[0]
        process.kill()
        status = server.wait()
        server.assert_nothing_left()
    assert status == (1 if victim == "worker" else -9)
