"""A Ray cluster of this machine and a second one, whose CPUs Ray counts as GPUs.

vLLM refuses Ray on a CPU, because its CPU platform does not name the resource that a worker takes
(`ray_device_key`). A platform plugin, which is vLLM's way to add platforms, names one.
"""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.e2e.real_server import server_environment, wait_until
from tests.e2e.scaling import free_port, python_path, ray_command
from tests.e2e.second_machine import Machine

_PLUGIN = {
    "ray_on_cpu-0.dist-info/METADATA": "Metadata-Version: 2.1\nName: ray-on-cpu\nVersion: 0\n",
    "ray_on_cpu-0.dist-info/entry_points.txt": (
        "[vllm.platform_plugins]\nray_on_cpu = ray_on_cpu:platform\n"
    ),
    "ray_on_cpu.py": 'def platform():\n    return "ray_on_cpu_platform.RayCpuPlatform"\n',
    "ray_on_cpu_platform.py": (
        "from vllm.platforms.cpu import CpuPlatform\n\n\n"
        'class RayCpuPlatform(CpuPlatform):\n    ray_device_key = "GPU"\n'
    ),
}
# What our server sets for its own processes, and Ray's must have before they import torch.
_ENGINE_VARIABLES = {"TORCHDYNAMO_DISABLE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
_OPTIONS = ("--num-cpus=1", "--num-gpus=1", "--object-store-memory=100000000", "--block")
_START_TIMEOUT_S = 120


@dataclass(frozen=True)
class RayCluster:
    """Attributes:
    variables: with which a server finds the cluster.
    second: Ray's processes on the second machine.
    """

    variables: Mapping[str, str]
    second: subprocess.Popen[bytes]


@contextmanager
def ray_cluster(folder: Path, machine: Machine) -> Iterator[RayCluster]:
    """Two nodes with a "GPU" each. Args: folder: for the plugin and logs; its path is short."""
    for name, text in _PLUGIN.items():
        path = folder / "plugin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    address = f"{machine.our_address}:{free_port(machine.our_address)}"
    variables = {"PYTHONPATH": python_path(folder / "plugin"), "RAY_USAGE_STATS_ENABLED": "0"}
    ray_variables = {**variables, **_ENGINE_VARIABLES}
    head_options = (
        "--head",
        f"--port={address.rpartition(':')[2]}",
        "--include-dashboard=false",
        f"--temp-dir={folder / 'ray'}",
    )
    with (
        _ray_node(
            folder / "ray-0",
            (),
            *head_options,
            f"--node-ip-address={machine.our_address}",
            GLOO_SOCKET_IFNAME=machine.our_interface,
            **ray_variables,
        ),
        _ray_node(
            folder / "ray-1",
            machine.command,
            f"--address={address}",
            f"--node-ip-address={machine.address}",
            GLOO_SOCKET_IFNAME=machine.interface,
            **ray_variables,
        ) as second,
    ):
        yield RayCluster({**variables, "RAY_ADDRESS": address}, second)


@contextmanager
def _ray_node(
    log_path: Path, launcher: tuple[str, ...], *options: str, **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [*launcher, *ray_command("start", *options, *_OPTIONS)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=server_environment(**variables),
            start_new_session=True,
        )
    try:
        wait_until(lambda: _has_started(process, log_path), _START_TIMEOUT_S)
        yield process
    finally:
        end_node(process)


def _has_started(process: subprocess.Popen[bytes], log_path: Path) -> bool:
    log = log_path.read_text()
    assert process.poll() is None, log
    return "Ray runtime started" in log


def end_node(process: subprocess.Popen[bytes]) -> None:
    """All of its processes, at once."""
    children = (
        psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    )
    for child in children:
        child.kill()
    process.kill()
    process.wait()
