"""One model on two machines: the same tokens as on one, and neither outlives the other.

The second machine is a network namespace; without the right to make one, only the same processes on
one machine are tested.
"""

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from demo.checkpoint import CheckpointSpec
from demo.random_checkpoint import build_checkpoint
from tests.e2e.real_server import RealServer, open_stream
from tests.e2e.scaling import free_port
from tests.e2e.second_machine import HAS_NAMESPACES, Machine, second_machine
from tests.e2e.test_real_parallel import LAST_QUESTION, answers, ask, serving

pytestmark = pytest.mark.slow


class Follower(RealServer):
    """`qwen3vl-serve serve --node-rank 1`, which never listens."""

    def __init__(self, launcher: tuple[str, ...], *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._command = [*launcher, *self._command]

    def _wait_until_ready(self) -> None:
        pass


@dataclass(frozen=True)
class Nodes:
    head: RealServer
    follower: Follower
    machine: Machine | None


def stop_head(nodes: Nodes) -> tuple[int, int]:
    """Each of these returns the expected exit statuses of the head and the follower."""
    nodes.head.terminate()
    return 0, 1  # with 1, a supervisor starts a follower again


def kill_follower(nodes: Nodes) -> tuple[int, int]:
    nodes.follower.process.kill()
    return 1, -signal.SIGKILL


def cut_cable(nodes: Nodes) -> tuple[int, int]:
    """Nobody is told."""
    if nodes.machine is None:
        pytest.skip("no right to make network namespaces")
    nodes.machine.cut_cable()
    return 1, 1


@dataclass(frozen=True)
class Case:
    layout: str
    end: Callable[[Nodes], tuple[int, int]]


_CASES: Mapping[str, Case] = {
    "head stopped": Case("tensor_parallel_size", stop_head),
    "follower killed": Case("pipeline_parallel_size", kill_follower),
    "cable cut": Case("tensor_parallel_size", cut_cable),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With enough layers for DeepStack to fit into the first of two stages."""
    path = tmp_path_factory.mktemp("checkpoints") / "six-layers"
    return build_checkpoint(path, CheckpointSpec(num_layers=6))


@pytest.fixture(scope="module")
def expected(checkpoint: Path, logs: Path) -> list[str]:
    """The answers of one process."""
    with serving(checkpoint, logs, "nodes-one") as server:
        return answers(server)


@pytest.fixture(scope="module", params=_CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return _CASES[request.param]


@pytest.fixture(scope="module")
def nodes(case: Case, checkpoint: Path, logs: Path) -> Iterator[Nodes]:
    with ExitStack() as stack:
        machine = stack.enter_context(second_machine()) if HAS_NAMESPACES else None
        address = machine.our_address if machine else "127.0.0.1"
        options = {
            case.layout: 2,
            "max_model_len": 4096,
            "shutdown_timeout_s": 2,
            "nnodes": 2,
            "master_addr": address,
            "master_port": free_port(address),
        }
        log = logs / f"nodes-{case.end.__name__}"
        launcher = machine.command if machine else ()
        follower = stack.enter_context(
            Follower(launcher, checkpoint, log.with_suffix(".1"), node_rank=1, **options)
        )
        head = stack.enter_context(RealServer(checkpoint, log.with_suffix(".0"), **options))
        yield Nodes(head, follower, machine)


@pytest.mark.parametrize("case", ["head stopped", "follower killed"], indirect=True)
def test_two_nodes_give_the_tokens_of_one_process(nodes: Nodes, expected: list[str]) -> None:
    assert answers(nodes.head) == expected
    # by now its pictures are known
    assert ask(nodes.head, LAST_QUESTION) == expected[-1]
    assert nodes.head.sample("qwen3vl_vision_cache_hits_total") > 0


def test_the_follower_computes_and_has_no_http(nodes: Nodes) -> None:
    assert "node 1 waits for node 0" in nodes.follower.log
    assert "Uvicorn" not in nodes.follower.log
    assert len(nodes.follower.process.children()) > 0


def test_neither_node_outlives_the_other(case: Case, nodes: Nodes) -> None:
    """While they answer. The last test of these."""
    options = {"max_tokens": 4000, "ignore_eos": True}
    with open_stream(nodes.head, "Tell me a story.", **options) as lines:
        next(lines)
        head_status, follower_status = case.end(nodes)
        assert '"error"' in "".join(lines)
    assert nodes.head.wait() == head_status
    assert nodes.follower.wait() == follower_status
    nodes.head.assert_nothing_left()
    nodes.follower.assert_nothing_left()
