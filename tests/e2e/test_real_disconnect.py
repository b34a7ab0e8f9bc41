"""A client that goes away takes its request out of the real engine."""

import httpx
import pytest

from tests.e2e.real_server import RealServer, make_request, open_stream, wait_until

# would run for minutes
ENDLESS = {"max_tokens": 30_000, "ignore_eos": True}


def num_running(server: RealServer) -> float:
    return server.sample("vllm:num_requests_running")


def num_aborted(server: RealServer) -> float:
    return server.sample("qwen3vl_requests_total", outcome="aborted")


@pytest.fixture
def idle(hybrid: RealServer) -> RealServer:
    wait_until(lambda: num_running(hybrid) == 0)
    return hybrid


def assert_stopped(server: RealServer, aborted_before: float, tokens_before: float) -> None:
    wait_until(lambda: num_running(server) == 0)
    assert num_aborted(server) == aborted_before + 1
    assert server.sample("qwen3vl_requests_in_flight") == 0
    num_tokens = server.sample("vllm:generation_tokens_total") - tokens_before
    assert 0 < num_tokens < ENDLESS["max_tokens"] / 2


def test_closed_stream_is_aborted_in_the_engine(idle: RealServer):
    aborted, tokens = num_aborted(idle), idle.sample("vllm:generation_tokens_total")
    with open_stream(idle, "hi", **ENDLESS) as lines:
        for _ in range(20):
            next(lines)
        wait_until(lambda: num_running(idle) == 1)
    assert_stopped(idle, aborted, tokens)


def test_client_that_does_not_wait_for_a_whole_answer_is_aborted_in_the_engine(idle: RealServer):
    aborted, tokens = num_aborted(idle), idle.sample("vllm:generation_tokens_total")
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{idle.base_url}/v1/chat/completions", json=make_request("hi", **ENDLESS), timeout=2
        )
    assert_stopped(idle, aborted, tokens)


def test_others_are_answered_while_one_client_goes_away(idle: RealServer):
    alone = idle.ask("hi", max_tokens=64).choices[0].message.content
    stream = idle.ask("hi", max_tokens=64, stream=True)
    first = next(stream)
    with open_stream(idle, "What?", **ENDLESS) as lines:
        next(lines)
    rest = [first, *stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in rest) == alone
