"""`--restart-engine`: the engine is killed, and the same server answers again."""

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
import psutil
import pytest

from demo.embedded import EMBEDDED_CHECKPOINT
from tests.e2e.real_cache import Reply, ask, picture_part, start
from tests.e2e.real_media import text
from tests.e2e.real_server import (
    MODEL_NAME,
    RealServer,
    command_of,
    make_request,
    open_stream,
    wait_until,
)
from tests.lora_adapters import make_adapter

pytestmark = [pytest.mark.alone, pytest.mark.slow]

QUESTION = text("What is it?")
ENDLESS = {"max_tokens": 900, "ignore_eos": True}
_START_TIMEOUT_S = 300


@dataclass(frozen=True)
class Restart:
    """One death and what followed.

    Attributes:
        whole, events: of two requests that were open.
        codes: of the errors of `/ready` in turn, and `statuses` those of `/health`.
        refused: a request in between.
    """

    server: RealServer
    whole: httpx.Response
    events: list[str]
    codes: list[str]
    statuses: list[tuple[int, str]]
    refused: httpx.Response
    before: dict[str, Reply]
    old_engine: psutil.Process


@pytest.fixture(scope="module")
def lora_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("first", "second")):
        make_adapter(str(EMBEDDED_CHECKPOINT), folder / name, "language", seed=seed, std=0.5)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, lora_dir: Path) -> Iterator[RealServer]:
    log_path = tmp_path_factory.mktemp("restart") / "log"
    lora: dict[str, Any] = {"enable_lora": True, "max_loras": 2, "lora_dir": lora_dir}
    lora["lora_modules"] = f"first={lora_dir / 'first'}"
    with start(log_path, restart_engine=True, host_bytes=1 << 28, **lora) as server:
        loaded = server.http.post(
            "/v1/load_lora_adapter", json={"lora_name": "second", "lora_path": "second"}
        )
        assert loaded.status_code == 200, loaded.text
        yield server


@pytest.fixture(scope="module")
def restart(server: RealServer) -> Restart:
    before = ask_all(server)
    engine = server.engine_process
    url = f"{server.base_url}/v1/chat/completions"
    codes: list[str] = []
    statuses: list[tuple[int, str]] = []
    with ThreadPoolExecutor() as threads:
        whole = threads.submit(httpx.post, url, json=make_request("hi", **ENDLESS), timeout=60)
        with open_stream(server, "hi", **ENDLESS) as lines:
            events = [next(lines) for _ in range(10)]
            wait_until(lambda: server.sample("vllm:num_requests_running") == 2)
            engine.kill()
            events += list(lines)
    wait_until(lambda: find_code(server) == "restarting")
    refused = httpx.post(url, json=make_request("hi"), timeout=60)

    def is_ready() -> bool:
        if code := find_code(server):
            codes.append(code)
            health = server.http.get("/health")
            statuses.append((health.status_code, health.json()["status"]))
        return code is None

    wait_until(is_ready, _START_TIMEOUT_S)
    data = [event.removeprefix("data: ") for event in events if event]
    return Restart(server, whole.result(), data, codes, statuses, refused, before, engine)


def find_code(server: RealServer) -> str | None:
    """Why the server is not ready."""
    answer = server.http.get("/ready")
    if answer.status_code == 200:
        return None
    assert answer.status_code == 503
    code: str = answer.json()["error"]["code"]
    return code


def ask_all(server: RealServer) -> dict[str, Reply]:
    """A picture, of the model and of both adapters."""
    content = [picture_part(1), QUESTION]
    return {name: ask(server, content, model=name) for name in (MODEL_NAME, "first", "second")}


def test_requests_in_flight_end_with_an_error(restart: Restart) -> None:
    assert restart.whole.status_code == 503
    assert restart.whole.json()["error"]["code"] == "engine_dead"
    *_, last, done = restart.events
    assert done == "[DONE]"
    assert orjson.loads(last)["error"]["code"] == "engine_dead"


def test_meanwhile_the_server_is_alive_and_not_ready(restart: Restart) -> None:
    assert set(restart.codes) == {"restarting"}
    # the last look may have been after the restart
    assert set(restart.statuses[:-1]) == {(200, "restarting")}
    assert restart.refused.status_code == 503
    assert restart.refused.json()["error"]["code"] == "restarting"


def test_answers_and_adapters_are_those_of_before(restart: Restart) -> None:
    after = ask_all(restart.server)
    assert after.keys() == restart.before.keys()
    for name, reply in after.items():
        reply.assert_same_as(restart.before[name])
    texts = [reply.logprobs for reply in after.values()]
    assert texts[0] != texts[1] != texts[2] != texts[0]  # the adapters do something


def test_the_cache_is_used_again(restart: Restart) -> None:
    assert restart.before[MODEL_NAME].sources == ("encoded",)
    assert restart.server.sample("qwen3vl_vision_cache_hits_total", tier="host") >= 1
    assert restart.server.sample("qwen3vl_vision_cache_encoded_total") == 0
    new = [picture_part(2), QUESTION]
    first, again = (ask(restart.server, new) for _ in range(2))
    assert (first.sources, again.sources) == (("encoded",), ("device",))
    again.assert_same_as(first)


def test_the_new_engine_holds_none_of_the_server_s_sockets(restart: Restart) -> None:
    port = int(restart.server.base_url.rpartition(":")[2])
    engine = restart.server.engine_process
    assert engine.pid != restart.old_engine.pid
    held = [entry for entry in engine.net_connections("inet") if port in entry.laddr]
    assert held == []


def test_metrics_are_each_there_once(restart: Restart) -> None:
    lines = restart.server.http.get("/metrics").text.splitlines()
    types = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(types) == len(set(types))
    assert "vllm:num_requests_running" in types
    assert restart.server.sample("qwen3vl_requests_in_flight") == 0


def test_responses_are_kept(server: RealServer, restart: Restart) -> None:
    answer = server.client.responses.create(model=MODEL_NAME, input="hi", max_output_tokens=16)
    server.engine_process.kill()
    wait_until(lambda: find_code(server) is not None)
    wait_until(lambda: find_code(server) is None, _START_TIMEOUT_S)
    further = server.client.responses.create(
        model=MODEL_NAME, input="and?", max_output_tokens=16, previous_response_id=answer.id
    )
    assert further.usage is not None and answer.usage is not None
    assert further.usage.input_tokens > answer.usage.input_tokens


def test_a_call_that_the_engine_does_not_answer_ends_with_it(
    server: RealServer, restart: Restart
) -> None:
    """vLLM would let it wait for ever."""
    engine = server.engine_process
    with ThreadPoolExecutor() as threads:
        engine.suspend()
        body = {"lora_name": "third", "lora_path": "second"}
        loading = threads.submit(server.http.post, "/v1/load_lora_adapter", json=body)
        time.sleep(1)  # the adapter is copied, and the engine asked
        engine.kill()
        assert loading.result().status_code == 503
    wait_until(lambda: find_code(server) is not None)
    wait_until(lambda: find_code(server) is None, _START_TIMEOUT_S)
    assert "third" not in [model.id for model in server.client.models.list()]


def test_sigterm_during_a_restart_ends_the_server_orderly(
    server: RealServer, restart: Restart
) -> None:
    """The last test of this server."""
    log_before = server.log
    server.engine_process.kill()
    wait_until(lambda: find_code(server) == "restarting")
    wait_until(lambda: len(server.process.children()) > 0)
    server.terminate()
    assert server.wait() == 0
    server.assert_nothing_left()
    assert "the engine runs again" not in server.log[len(log_before) :]


def test_an_engine_that_does_not_start_again_ends_the_server(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(EMBEDDED_CHECKPOINT, checkpoint)
    options: dict[str, Any] = {"max_model_len": 256, "restart_engine": True}
    with RealServer(checkpoint, tmp_path / "log", **options) as server:
        shutil.rmtree(checkpoint)
        server.engine_process.kill()
        wait_until(lambda: not server.process.is_running() or is_over(server), _START_TIMEOUT_S)
        assert server.wait() == 1
        server.assert_nothing_left()
        assert server.log.count("starting it again") == 5
        assert "ending the server" in server.log


def is_over(server: RealServer) -> bool:
    return server.process.status() == psutil.STATUS_ZOMBIE


def test_any_process_of_several_may_die(hybrid_checkpoint: Path, tmp_path: Path) -> None:
    queues = find_queues()
    options: dict[str, Any] = {"tensor_parallel_size": 2, "restart_engine": True}
    with RealServer(hybrid_checkpoint, tmp_path / "log", max_model_len=256, **options) as server:
        before = server.ask("hi").choices[0].message.content
        num_queues = len(find_queues() - queues)
        for victim in ("EngineCore", "Worker_TP1"):
            old = server.process.children(recursive=True)
            named = [process for process in old if victim in command_of(process)]
            assert len(named) == 1, [command_of(process) for process in old]
            named[0].kill()
            wait_until(lambda: find_code(server) is not None)
            wait_until(lambda: find_code(server) is None, _START_TIMEOUT_S)
            assert server.ask("hi").choices[0].message.content == before
            left = [process for process in old if "VLLM" in command_of(process)]
            assert left == []
            assert len(find_queues() - queues) == num_queues > 0
    assert find_queues() <= queues


def find_queues() -> set[Path]:
    """What vLLM's processes share."""
    folder = Path("/dev/shm")
    return {*folder.glob("psm_*"), *folder.glob("*-cpushm_*")}
