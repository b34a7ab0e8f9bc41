"""One model on two Ray nodes: the tokens of one process, and the server ends with a node."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from tests.e2e.ray_cluster import RayCluster, end_node, ray_cluster
from tests.e2e.real_server import RealServer, open_stream
from tests.e2e.scaling import needs_scaling
from tests.e2e.second_machine import HAS_NAMESPACES, second_machine
from tests.e2e.test_real_parallel import answers, serving

pytestmark = [
    pytest.mark.slow,
    needs_scaling,
    pytest.mark.skipif(not HAS_NAMESPACES, reason="no right to make network namespaces"),
]


@pytest.fixture(scope="module")
def expected(hybrid_checkpoint: Path, logs: Path) -> list[str]:
    """The answers of one process."""
    with serving(hybrid_checkpoint, logs, "ray-one") as server:
        return answers(server)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with (
        TemporaryDirectory(prefix="ray-") as folder,
        second_machine() as machine,
        ray_cluster(Path(folder), machine) as cluster,
    ):
        yield cluster


@pytest.fixture(scope="module")
def server(cluster: RayCluster, hybrid_checkpoint: Path, logs: Path) -> Iterator[RealServer]:
    options = {"distributed_executor_backend": "ray", "tensor_parallel_size": 2}
    log = logs / "ray"
    # A node that goes while a step runs may be seen only after this time.
    variables = {**cluster.variables, "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": "30"}
    with RealServer(
        hybrid_checkpoint,
        log,
        variables,
        max_model_len=4096,
        shutdown_timeout_s=2,
        **options,
    ) as server:
        yield server


def test_two_ray_nodes_give_the_tokens_of_one_process(
    server: RealServer, expected: list[str]
) -> None:
    assert answers(server) == expected
    # by now all pictures are known
    assert answers(server) == expected
    assert server.sample("qwen3vl_vision_cache_hits_total") > 0


def test_each_ray_node_has_a_worker(server: RealServer, cluster: RayCluster) -> None:
    def workers(pid: int) -> list[psutil.Process]:
        processes = psutil.Process(pid).children(recursive=True)
        return [p for p in processes if "RayWorkerProc" in " ".join(p.cmdline())]

    assert len(workers(cluster.second.pid)) == 1


def test_the_server_ends_when_a_ray_node_is_gone(server: RealServer, cluster: RayCluster) -> None:
    """While it answers. The last test of these."""
    options = {"max_tokens": 4000, "ignore_eos": True}
    with open_stream(server, "Tell me a story.", **options) as lines:
        next(lines)
        end_node(cluster.second)
        assert '"error"' in "".join(lines)
    assert server.wait() == 1
    server.assert_nothing_left()
