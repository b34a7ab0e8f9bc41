"""Profiles of a server with the real engine: both tools see what it spends its time on."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.real_media import image, text
from tests.e2e.real_server import RealServer

pytestmark = pytest.mark.alone

VISION_TOWER = "model_executor/qwen3_vl/vision.py"


@pytest.fixture(scope="module")
def profiled(hybrid_checkpoint: Path, logs: Path) -> Iterator[RealServer]:
    options: dict[str, Any] = {"max_model_len": 1024, "profile_dir": logs / "profiles"}
    with RealServer(hybrid_checkpoint, logs / "profiled", **options) as server:
        yield server


def start(server: RealServer, **fields: Any) -> None:
    response = server.http.post("/start_profile", json=fields)
    message = response.text
    if fields["tool"] == "py-spy" and "Permission denied" in message:
        pytest.skip(f"tracing is not permitted here: {message}")
    assert response.status_code == 200, message


def stop(server: RealServer) -> dict[str, Path]:
    """The files by name."""
    answer = server.http.post("/stop_profile")
    assert answer.status_code == 200, answer.text
    return {name: Path(answer.json()["directory"], name) for name in answer.json()["files"]}


def ask_for_image(server: RealServer, **options: Any) -> None:
    assert server.ask([image(**options), text("hi")], max_tokens=4).usage.completion_tokens == 4


def read_files(path: Path) -> set[str]:
    """The source files of all functions that py-spy saw, from the project's root."""
    frames = json.loads(path.read_text())["shared"]["frames"]
    root = f"{Path(__file__).parents[2]}/"
    return {frame.get("file", "").removeprefix(root) for frame in frames}


def test_torch_records_the_steps_and_the_vision_tower(profiled: RealServer) -> None:
    start(profiled, tool="torch", max_iterations=3)
    ask_for_image(profiled)
    files = stop(profiled)
    (path,) = (path for name, path in files.items() if name.endswith(".pt.trace.json.gz"))
    names = [
        str(event["name"])
        for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    ]
    assert any(VISION_TOWER in name and name.endswith("forward") for name in names)
    assert any(name.startswith("execute_context_1") for name in names)
    assert "aten::layer_norm" in names
    profiled.ask("still here")


def test_py_spy_samples_server_and_engine(profiled: RealServer) -> None:
    expected, seen = {VISION_TOWER, "server/endpoint.py"}, set[str]()
    for first in (60_000, 61_000, 62_000):  # on a busy machine one profile has too few samples
        start(profiled, tool="py-spy")
        for max_pixels in range(first, first + 200_000, 5_000):  # sizes that are not in the cache
            ask_for_image(profiled, max_pixels=max_pixels)
        (path,) = stop(profiled).values()
        seen |= read_files(path)
        if expected <= seen:
            break
    assert expected <= seen
    profiled.ask("still here")


def test_a_profile_that_runs_at_shutdown_is_written(hybrid_checkpoint: Path, tmp_path: Path):
    folder = tmp_path / "profiles"
    options: dict[str, Any] = {"max_model_len": 256, "profile_dir": folder}
    with RealServer(hybrid_checkpoint, tmp_path / "log", **options) as server:
        start(server, tool="py-spy")
        server.ask("hi")
        server.terminate()
        assert server.wait() == 0
        server.assert_nothing_left()
    assert [path.suffix for path in folder.iterdir()] == [".json"]
