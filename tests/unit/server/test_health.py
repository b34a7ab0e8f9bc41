"""The details of `/health`: asked for, consistent, and silent about sleeping weights."""

from dataclasses import replace
from typing import Any

import pytest

from server.engine import WorkerWeights
from tests.api_document import check_response
from tests.fake_backend import Server, assert_error


async def ask(server: Server, details: str = "1") -> Any:
    response = await server.request("GET", f"/health?details={details}")
    check_response("/health", response)
    return response


async def weights_of(server: Server) -> Any:
    return (await ask(server)).json()["details"]["weights"]


@pytest.mark.parametrize("path", ["/health", "/health?details=0"])
async def test_there_are_no_details_unless_asked_for(path: str) -> None:
    body = (await Server().request("GET", path)).json()
    assert body.keys() == {"status", "implementation"}


async def test_details_describe_the_engine() -> None:
    server = Server()
    details = (await ask(server)).json()["details"]
    weights = details.pop("weights")
    assert details == {
        "device": "cpu",
        "dtype": "float32",
        "data_parallel_size": 1,
        "tensor_parallel_size": 1,
        "pipeline_parallel_size": 1,
        "enable_expert_parallel": False,
        "speculative_method": None,
        "num_speculative_tokens": 0,
        "vision_cache_namespace": "namespace",
        "is_sleeping": False,
    }
    assert weights["is_consistent"] is True
    assert weights["workers"] == [
        {
            "pipeline_parallel_rank": 0,
            "data_parallel_rank": 0,
            "tensor_parallel_rank": 0,
            "checksum": "all",
            "replicated": "common",
            "num_bytes": 4,
        }
    ]


async def test_the_checksum_is_of_all_workers_in_their_order() -> None:
    server, worker = Server(), WorkerWeights(0, 0, 0, "a", "common", 4)
    server.engine.weights = [worker, replace(worker, tensor_parallel_rank=1, checksum="b")]
    both = await weights_of(server)
    server.engine.weights.reverse()
    assert await weights_of(server) == both
    server.engine.weights = [worker, replace(worker, tensor_parallel_rank=1, checksum="c")]
    other = await weights_of(server)
    assert other["checksum"] != both["checksum"]
    assert both["is_consistent"] and other["is_consistent"]


async def test_workers_of_one_stage_must_hold_the_same() -> None:
    server, worker = Server(), WorkerWeights(0, 0, 0, "a", "common", 4)
    elsewhere = replace(worker, pipeline_parallel_rank=1, replicated="of the next stage")
    server.engine.weights = [worker, elsewhere]
    assert (await weights_of(server))["is_consistent"] is True
    server.engine.weights = [worker, replace(elsewhere, pipeline_parallel_rank=0)]
    assert (await weights_of(server))["is_consistent"] is False


async def test_weights_that_sleep_have_no_checksum() -> None:
    server = Server()
    server.state.fall_asleep(1, 0)
    details = (await ask(server)).json()["details"]
    assert (details["is_sleeping"], details["weights"]) == (True, None)


async def test_another_value_is_refused() -> None:
    assert_error(await ask(Server(), "yes"), 400, "invalid_value", "details")


async def test_while_loading_there_are_none() -> None:
    server = Server()
    server.state.backend = None
    assert (await ask(server)).json() == {"status": "loading", "implementation": None}
