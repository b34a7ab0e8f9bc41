"""Settings of an engine on several machines, and what is made of them."""

import os
from pathlib import Path
from typing import Any

import pytest

from multimodal.vision_cache import VisionCacheConfig
from server.context_length import ContextLength
from server.settings import EngineSettings, SettingsError, load_settings
from server.vllm_args import engine_args, set_engine_environment
from server.vllm_start import starts_by_fork

_VARIABLES = ("VLLM_HOST_IP", "GLOO_SOCKET_IFNAME", "VLLM_CPU_OMP_THREADS_BIND")

CONTEXT = ContextLength(4096)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Returns: a function from settings to what vLLM finds in its environment."""
    for name in (*_VARIABLES, "VLLM_RPC_BASE_PATH"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})

    def variables(**settings: Any) -> dict[str, str | None]:
        engine = EngineSettings(profile="cpu", enforce_eager=False, **settings)
        args = engine_args(
            "demo", engine, CONTEXT, VisionCacheConfig("00", str(tmp_path)), None, None
        )
        set_engine_environment(engine, args, str(tmp_path))
        return {name: os.environ.get(name) for name in _VARIABLES}

    return variables


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"nnodes": 2, "node_rank": 2}, r"engine\.node_rank .*must be below nnodes \(2\)"),
        ({"node_rank": 1}, r"engine\.node_rank .*must be below nnodes \(1\)"),
        ({"nnodes": 2, "distributed_executor_backend": "ray"}, r"engine\.nnodes .*must be 1 with"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    engine: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        load_settings(None, {"engine": engine})


def test_a_last_node_is_accepted() -> None:
    assert load_settings(None, {"engine": {"nnodes": 2, "node_rank": 1}}).engine.node_rank == 1


def test_vllm_gets_the_nodes_under_its_own_names(tmp_path: Path) -> None:
    nodes = {"nnodes": 2, "node_rank": 1, "master_addr": "10.0.0.1", "master_port": 29999}
    settings = EngineSettings(profile="cpu", tensor_parallel_size=2, **nodes)
    args = engine_args(
        "demo", settings, CONTEXT, VisionCacheConfig("00", str(tmp_path)), None, None
    )
    assert {name: getattr(args, name) for name in nodes} == nodes


def test_a_node_is_known_by_its_address_on_the_way_to_node_0(environment: Any) -> None:
    variables = environment(nnodes=2, tensor_parallel_size=2, master_addr="127.0.0.1")
    assert variables["VLLM_HOST_IP"] == "127.0.0.1"
    assert variables["GLOO_SOCKET_IFNAME"] == "lo"


def test_addresses_of_the_operator_are_left_alone(
    environment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_HOST_IP", "10.0.0.7")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    variables = environment(nnodes=2, tensor_parallel_size=2)
    assert (variables["VLLM_HOST_IP"], variables["GLOO_SOCKET_IFNAME"]) == ("10.0.0.7", "eth7")


def test_one_machine_needs_no_address(environment: Any) -> None:
    variables = environment(tensor_parallel_size=2)
    assert variables["VLLM_HOST_IP"] is None
    assert variables["GLOO_SOCKET_IFNAME"] is None


def test_processes_share_the_cores_of_their_own_machine(environment: Any) -> None:
    variables = environment(nnodes=2, tensor_parallel_size=4)
    assert variables["VLLM_CPU_OMP_THREADS_BIND"] == "0,1|2,3"


@pytest.mark.parametrize("backend", ["mp", "ray"])
def test_a_backend_that_is_asked_for_is_not_replaced_by_a_fork(backend: Any) -> None:
    assert starts_by_fork(EngineSettings(profile="cpu"))
    settings = EngineSettings(profile="cpu", distributed_executor_backend=backend)
    assert not starts_by_fork(settings)
