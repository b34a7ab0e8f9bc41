"""`qwen3vl-serve doctor`: what faked readings mean, and that this machine can be read."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from server.cli import main
from server.commands import doctor
from server.commands.doctor import check_plan, judge, plan_arguments, to_text
from server.commands.findings import Finding
from server.commands.readings import (
    DiskSpeed,
    Gpu,
    Libraries,
    Machine,
    measure_disk,
    parse_gpus,
    read_machine,
)
from server.settings import CacheSettings, ServerSettings, Settings

MIB, GIB = 2**20, 2**30
GPU = Gpu("NVIDIA H100 80GB HBM3", 80 * GIB, 79 * GIB, "570.1")
LIBRARIES = Libraries((3, 11), "2.13.0+cpu", "5.19.0", "0.32.0", None, 0, True, None)
CUDA = replace(LIBRARIES, torch_cuda="13.0", num_visible_gpus=1)
MACHINE = Machine(
    gpus=(),
    memory_bytes=16 * GIB,
    shared_total_bytes=8 * GIB,
    shared_free_bytes=8 * GIB,
    max_open_files=20_000,
    max_locked_bytes=8 * MIB,
    landlock=7,
    has_no_new_privs=True,
    has_libnuma=True,
    compiler="/usr/bin/g++",
    port_fault=None,
    disk_free_bytes=100 * GIB,
    disk_speed=DiskSpeed(1e9, 1e9),
)
ON_GPU = replace(MACHINE, gpus=(GPU,))
SETTINGS = Settings(
    cache=CacheSettings(disk_dir="/cache"), server=ServerSettings(max_connections=1000)
)
PLAN: dict[str, Any] = {
    "model": "demo",
    "fits": True,
    "devices_needed": None,
    "device": {"name": "CPU", "memory_bytes": 16 * GIB, "count": 1},
    "per_device": {"weights": {"total": 10 * MIB}},
    "requests": 40,
    "workload": {"concurrency": 16},
}


def found(
    machine: Machine = MACHINE, libraries: Libraries = LIBRARIES, settings: Settings = SETTINGS
) -> dict[str, Finding]:
    return {finding.name: finding for finding in judge(libraries, machine, settings)}


def test_a_machine_that_is_fit_has_nothing_to_change() -> None:
    for findings in (found(), found(ON_GPU, CUDA)):
        assert {finding.status for finding in findings.values()} == {"ok"}
        assert not any(finding.advice for finding in findings.values())


@pytest.mark.parametrize(
    ("name", "changes", "status", "advice"),
    [
        ("python", {"python": (3, 10)}, "bad", "3.11"),
        ("torch", {"torch": None}, "bad", "pip install torch"),
        ("transformers", {"transformers": None}, "bad", "pip install transformers"),
        ("transformers", {"transformers": "4.57.1"}, "bad", "5 or later"),
        ("vllm", {"vllm": None}, "bad", "qwen3vl-serve[cpu]"),
        ("vllm", {"fault": "RuntimeError: supports vLLM >= 0.32"}, "bad", "make setup"),
        ("plugin", {"has_plugin": False}, "bad", "pip install ."),
        ("gpu", {"torch_cuda": "13.0"}, "warn", "NVIDIA driver"),
    ],
)
def test_libraries(name: str, changes: dict[str, Any], status: str, advice: str) -> None:
    finding = found(libraries=replace(LIBRARIES, **changes))[name]
    assert finding.status == status and advice in finding.advice


@pytest.mark.parametrize(
    ("name", "changes", "status", "advice"),
    [
        ("shared memory", {"shared_total_bytes": None}, "bad", "mount a tmpfs"),
        ("shared memory", {"shared_free_bytes": 64 * MIB}, "bad", "--shm-size"),
        ("shared memory", {"shared_free_bytes": 512 * MIB}, "warn", "--shm-size"),
        ("open files", {"max_open_files": 1024}, "warn", "ulimit -Hn 1512"),
        ("disk tier", {"disk_speed": DiskSpeed(fault="Permission denied")}, "bad", "--disk-dir"),
        ("disk tier", {"disk_speed": DiskSpeed(1e9, 50e6)}, "warn", "NVMe"),
        ("disk space", {"disk_free_bytes": GIB}, "warn", "--disk-bytes"),
        ("port", {"port_fault": "Address already in use"}, "warn", "--port"),
        ("video confinement", {"landlock": -1}, "warn", "Linux 5.13"),
        ("video confinement", {"has_no_new_privs": False}, "bad", "Linux 3.5"),
        ("libnuma", {"has_libnuma": False}, "bad", "libnuma1"),
        ("compiler", {"compiler": None}, "warn", "g++"),
    ],
)
def test_machine(name: str, changes: dict[str, Any], status: str, advice: str) -> None:
    finding = found(replace(MACHINE, **changes))[name]
    assert finding.status == status and advice in finding.advice


@pytest.mark.parametrize(
    ("name", "machine", "libraries", "status", "advice"),
    [
        ("torch and gpu", ON_GPU, LIBRARIES, "warn", "[cuda]"),
        ("torch and gpu", ON_GPU, replace(CUDA, num_visible_gpus=0), "bad", "CUDA 13.0"),
        ("torch and gpu", replace(MACHINE, gpus=(GPU, GPU)), CUDA, "warn", "VISIBLE"),
        ("gpu 0", replace(MACHINE, gpus=(replace(GPU, free_bytes=GIB),)), CUDA, "warn", "utiliz"),
        ("locked memory", replace(MACHINE, gpus=(GPU, GPU)), CUDA, "warn", "ulimit -l"),
        ("libnuma", replace(ON_GPU, has_libnuma=False), CUDA, "warn", "libnuma1"),
        ("compiler", replace(ON_GPU, compiler=None), CUDA, "bad", "g++"),
    ],
)
def test_machine_with_gpus(
    name: str, machine: Machine, libraries: Libraries, status: str, advice: str
) -> None:
    finding = found(machine, libraries)[name]
    assert finding.status == status and advice in finding.advice


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({}, "ok", "40 requests at once"),
        ({"requests": 3}, "warn", "3 requests at once"),
        ({"fits": False, "devices_needed": 4}, "bad", "does not fit"),
        ({"fits": False}, "bad", "does not fit"),
    ],
)
def test_a_model_is_held_against_the_memory(
    changes: dict[str, Any], status: str, words: str
) -> None:
    finding = check_plan("demo", MACHINE, lambda argv: {**PLAN, **changes})
    assert finding.status == status and words in finding.message
    assert bool(finding.advice) == (status != "ok")


def test_a_model_that_is_not_known_is_told() -> None:
    def refuse(argv: Sequence[str]) -> dict[str, Any]:
        raise ValueError("there is no such model")

    assert check_plan("none", MACHINE, refuse).status == "bad"


def test_a_plan_is_made_for_what_there_is() -> None:
    argv = plan_arguments("demo", MACHINE)
    assert argv == ["demo", "--gpu", "CPU", "--gpu-memory-gib", "16.00"]
    argv = plan_arguments("demo", replace(MACHINE, gpus=(GPU, GPU)))
    assert argv == ["demo", "--gpu", GPU.name, "--gpu-memory-gib", "80.00", "--count", "2"]


def test_gpus_are_read_off_the_drivers_table() -> None:
    table = "NVIDIA A10, 23028, 22000, 570.1\nGPU, with a comma, 10, 5, 1\nNVIDIA L4, [N/A], 1, 2\n"
    assert parse_gpus(table) == (
        Gpu("NVIDIA A10", 23028 * MIB, 22000 * MIB, "570.1"),
        Gpu("GPU, with a comma", 10 * MIB, 5 * MIB, "1"),
    )


def test_the_disk_is_measured_and_left_as_it_was(tmp_path: Path) -> None:
    speed = measure_disk(tmp_path, num_bytes=MIB)
    assert speed.written > 0 and speed.read > 0 and list(tmp_path.iterdir()) == []
    assert measure_disk(tmp_path / "not" / "yet", num_bytes=MIB).written > 0
    assert list(tmp_path.iterdir()) == []  # the server's user is to make it
    (tmp_path / "file").touch()
    assert measure_disk(tmp_path / "file" / "folder", num_bytes=MIB).fault is not None


def test_this_machine_can_be_read() -> None:
    machine = read_machine(Settings())
    assert machine.memory_bytes > 0 and machine.disk_speed is None


@pytest.mark.parametrize(
    ("machine", "status"), [(MACHINE, 0), (replace(MACHINE, shared_total_bytes=None), 1)]
)
def test_the_command_ends_with_1_if_something_is_bad(
    machine: Machine,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The model's plan is a real one."""
    monkeypatch.setattr(doctor, "read_libraries", lambda: LIBRARIES)
    monkeypatch.setattr(doctor, "read_machine", lambda settings: machine)
    assert main(["doctor", "demo", "--json"]) == status
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert findings[-1]["name"] == "memory" and findings[-1]["status"] == "ok"
    assert any(finding["status"] == "bad" for finding in findings) == bool(status)
    assert main(["doctor", "no/such-model" if status else "demo"]) == status
    assert "shared memory" in capsys.readouterr().out


def test_advice_stands_below_its_line() -> None:
    text = to_text(
        [Finding("port", "ok", "free"), Finding("disk tier", "bad", "full", "make room")]
    )
    assert text.splitlines() == [
        "ok    port       free",
        "BAD   disk tier  full",
        "                 -> make room",
    ]
