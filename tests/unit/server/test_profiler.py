"""Profiles over HTTP: one at a time, the files they leave, and tools that fail."""

import asyncio
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest

import server.profiler
from server.settings import ServerSettings, Settings
from tests.api_document import check_response
from tests.fake_backend import Server, assert_error

START, STOP = "/start_profile", "/stop_profile"
PY_SPY: dict[str, Any] = {"json": {"tool": "py-spy"}}
# Plays py-spy: its last argument is where the trace goes.
SAMPLING = f"""#!{sys.executable}
import pathlib, signal, sys, time
def end(*_):
    pathlib.Path(sys.argv[-1]).write_text("trace")
    sys.exit(0)
signal.signal(signal.SIGINT, end)
print("py-spy> Sampling process 200 times a second. Press Control-C to exit.", flush=True)
time.sleep(60)
"""
REFUSED = """#!/bin/sh
echo "Permission Denied: Try running again with elevated permissions" >&2
exit 1
"""
FAILING = SAMPLING.replace("sys.exit(0)", "sys.exit('no space')").replace("trace", "")

InstallPySpy = Callable[[str], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "profiles"


@pytest.fixture
def profiled(folder: Path) -> Server:
    """A server with profiles, whose engine writes a trace."""
    server = Server(settings=Settings(server=ServerSettings(profile_dir=folder)))
    server.engine.trace_path = folder / "rank0.pt.trace.json.gz"
    return server


@pytest.fixture
def install_py_spy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InstallPySpy:
    def install(script: str) -> None:
        path = tmp_path / "py-spy"
        path.write_text(script)
        path.chmod(0o755)
        monkeypatch.setattr(server.profiler, "_find_py_spy", lambda: str(path))

    return install


async def post(server: Server, path: str, **options: Any) -> httpx.Response:
    """The answer, which must be as the document describes it."""
    response = await server.request("POST", path, **options)
    check_response(path, response)
    return response


@pytest.mark.parametrize("path", [START, STOP])
async def test_without_the_setting_there_are_no_profiles(path: str) -> None:
    message = assert_error(await post(Server(), path), 404, "profiling_off")
    assert "`server.profile_dir`" in message


async def test_a_profile_is_torchs_unless_asked_otherwise(profiled: Server, folder: Path) -> None:
    started = await post(profiled, START)  # without a body, as vLLM's clients do
    assert (started.status_code, started.json()) == (200, {"tool": "torch"})
    stopped = await post(profiled, STOP)
    assert stopped.json() == {
        "tool": "torch",
        "files": ["rank0.pt.trace.json.gz"],
        "directory": str(folder),
    }
    assert profiled.engine.profiles == ["start 1000", "stop"]


async def test_the_bound_of_steps_is_handed_to_the_engine(profiled: Server) -> None:
    await post(profiled, START, json={"tool": "torch", "max_iterations": 50})
    assert profiled.engine.profiles == ["start 50"]


async def test_fields_of_others_are_ignored(profiled: Server) -> None:
    """vLLM's load test sends the body of its requests."""
    answer = await post(profiled, START, json={"model": "m", "prompt": "a", "profile_prefix": "x"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("body", "param"), [({"tool": "perf"}, "tool"), ({"max_iterations": 0}, "max_iterations")]
)
async def test_what_cannot_be_done_is_refused(
    body: dict[str, Any], param: str, profiled: Server
) -> None:
    assert_error(await post(profiled, START, json=body), 400, "invalid_value", param)
    assert profiled.engine.profiles == []


async def test_there_is_one_profile_at_a_time(profiled: Server) -> None:
    assert_error(await post(profiled, STOP), 409, "no_profile")
    await post(profiled, START)
    assert_error(await post(profiled, START), 409, "profile_running")
    assert (await post(profiled, STOP)).status_code == 200
    assert_error(await post(profiled, STOP), 409, "no_profile")
    assert profiled.engine.profiles == ["start 1000", "stop"]


async def test_of_two_at_the_same_time_one_is_refused(profiled: Server) -> None:
    answers = await asyncio.gather(post(profiled, START), post(profiled, START))
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    assert profiled.engine.profiles == ["start 1000"]


@pytest.mark.parametrize("path", [START, STOP])
async def test_a_web_page_cannot_trace(profiled: Server, path: str) -> None:
    """A browser sends such a request to any address without asking first."""
    answer = await post(profiled, path, headers={"Origin": "https://example.com"})
    assert_error(answer, 403, "web_page")
    assert profiled.engine.profiles == []


async def test_a_server_that_ends_begins_no_profile(profiled: Server) -> None:
    profiled.state.drain()
    assert_error(await post(profiled, START), 503, "shutting_down")


async def test_a_stop_that_nobody_waits_for_can_be_repeated(profiled: Server) -> None:
    assert profiled.state.profiler is not None
    await post(profiled, START)
    profiled.engine.profile_stop_s = 60
    stopping = asyncio.create_task(profiled.state.profiler.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    await asyncio.wait([stopping])
    profiled.engine.profile_stop_s = 0
    assert (await post(profiled, STOP)).status_code == 200


async def test_a_folder_that_has_gone_is_an_error(profiled: Server, folder: Path) -> None:
    profiled.engine.trace_path = None
    await post(profiled, START)
    folder.rmdir()
    assert_error(await post(profiled, STOP), 500, "profiler_failed")


async def test_only_files_of_this_profile_are_named(profiled: Server, folder: Path) -> None:
    folder.mkdir()
    (folder / "earlier").touch()
    for path in ("first", "second"):
        profiled.engine.trace_path = folder / path
        await post(profiled, START)
        assert (await post(profiled, STOP)).json()["files"] == [path]


async def test_a_profile_without_a_trace_is_an_error(profiled: Server) -> None:
    profiled.engine.trace_path = None
    await post(profiled, START)
    assert_error(await post(profiled, STOP), 500, "profiler_failed")
    assert (await post(profiled, START)).status_code == 200


async def test_a_folder_that_cannot_be_made_is_an_error(profiled: Server, folder: Path) -> None:
    folder.touch()
    message = assert_error(await post(profiled, START), 500, "profiler_failed")
    assert message.startswith("`server.profile_dir`: ")
    assert profiled.engine.profiles == []


async def test_a_dead_engine_has_no_profile(profiled: Server) -> None:
    await post(profiled, START)
    profiled.engine.is_dead = True
    assert_error(await post(profiled, STOP), 503, "engine_dead")
    assert (await post(profiled, STOP)).status_code == 409


async def test_there_is_no_profile_before_the_model_is_loaded(profiled: Server) -> None:
    profiled.state.backend = None
    assert_error(await post(profiled, START), 503, "not_ready")


async def test_py_spy_writes_its_trace_when_it_is_stopped(
    profiled: Server, folder: Path, install_py_spy: InstallPySpy
) -> None:
    install_py_spy(SAMPLING)
    assert (await post(profiled, START, **PY_SPY)).json() == {"tool": "py-spy"}
    assert list(folder.iterdir()) == []
    answer = (await post(profiled, STOP)).json()
    (name,) = answer["files"]
    assert answer["tool"] == "py-spy"
    assert name.endswith(".speedscope.json")
    assert (folder / name).read_text() == "trace"
    assert profiled.engine.profiles == []


async def test_py_spy_that_may_not_trace_is_an_error_with_its_words(
    profiled: Server, install_py_spy: InstallPySpy
) -> None:
    install_py_spy(REFUSED)
    message = assert_error(await post(profiled, START, **PY_SPY), 500, "profiler_failed")
    assert "Permission Denied: Try running again" in message
    assert (await profiled.post()).status_code == 200
    assert (await post(profiled, STOP)).status_code == 409


async def test_py_spy_that_cannot_write_is_an_error_with_its_words(
    profiled: Server, install_py_spy: InstallPySpy
) -> None:
    install_py_spy(FAILING)
    await post(profiled, START, **PY_SPY)
    assert "no space" in assert_error(await post(profiled, STOP), 500, "profiler_failed")


async def test_py_spy_that_is_not_installed_is_an_error(
    profiled: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.profiler, "_find_py_spy", lambda: None)
    message = assert_error(await post(profiled, START, **PY_SPY), 500, "profiler_failed")
    assert "not installed" in message


async def test_a_profile_ends_with_the_server(
    profiled: Server, folder: Path, install_py_spy: InstallPySpy
) -> None:
    install_py_spy(SAMPLING)
    await post(profiled, START, **PY_SPY)
    await profiled.state.close()
    assert [path.suffix for path in folder.iterdir()] == [".json"]


async def test_a_profile_that_fails_at_the_end_keeps_nothing_from_closing(
    profiled: Server, caplog: pytest.LogCaptureFixture
) -> None:
    await post(profiled, START)
    profiled.engine.is_dead = True
    await profiled.state.close()
    assert "is lost" in caplog.text
    assert profiled.engine.is_shut_down


@pytest.mark.parametrize("is_loaded", [True, False])
async def test_the_versions_are_told(is_loaded: bool) -> None:
    response = await Server(is_loaded=is_loaded).request("GET", "/version")
    check_response("/version", response)
    assert response.json()["version"] == version("qwen3vl-serve")
    assert response.json()["vllm"][0].isdigit()
