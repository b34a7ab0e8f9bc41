"""Adapters over HTTP on the fake engine: loading, use by name, unloading."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.engine import AdapterRefused
from server.settings import Settings
from tests.adapter_files import Q_PROJ, QKV, TARGETS, make_tensors, write_adapter
from tests.api_document import check_response
from tests.fake_backend import Server, assert_error, image_part, make_body
from tests.fake_engine import make_chunk

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
StartServer = Callable[..., Server]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        write_adapter(tmp_path / name)
    write_adapter(tmp_path / "tower", make_tensors(Q_PROJ, QKV))
    return tmp_path


@pytest.fixture
def start(root: Path) -> StartServer:
    def start(*script: Any, **options: Any) -> Server:
        engine = {"enable_lora": True, "lora_dir": root, **options}
        return Server(*script, settings=Settings(engine=engine), lora_targets=TARGETS)

    return start


async def load(server: Server, name: str, path: str | None = None, **fields: Any) -> httpx.Response:
    body = {"lora_name": name, "lora_path": path or name, **fields}
    response = await server.request("POST", LOAD, json=body)
    check_response(LOAD, response)
    return response


async def unload(server: Server, name: str) -> httpx.Response:
    response = await server.request("POST", UNLOAD, json={"lora_name": name})
    check_response(UNLOAD, response)
    return response


async def settle() -> None:
    """Let tasks in the background, and their threads, come to an end."""
    await asyncio.sleep(0.1)


async def test_a_request_names_the_adapter_as_its_model(start: StartServer) -> None:
    server = start()
    loaded = await load(server, "a")
    assert (loaded.status_code, loaded.json()) == (200, {"lora_name": "a", "status": "loaded"})
    answer = await server.post(model="a")
    assert answer.json()["model"] == "a"
    assert (await server.post()).json()["model"] == "qwen"
    with_adapter, without = server.engine.requests
    assert with_adapter.adapter is not None
    assert with_adapter.adapter.name == "a"
    assert without.adapter is None


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/responses", {"input": "hi"}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}),
    ],
)
async def test_every_api_takes_adapters(
    start: StartServer, path: str, body: dict[str, Any]
) -> None:
    server = start()
    await load(server, "a")
    answer = await server.request("POST", path, json={"model": "a", **body})
    assert (answer.status_code, answer.json()["model"]) == (200, "a")
    (request,) = server.engine.requests
    assert request.adapter is not None
    unknown = await server.request("POST", path, json={"model": "z", **body})
    assert unknown.status_code == 404


@pytest.mark.parametrize("path", ["/tokenize", "/v1/messages/count_tokens"])
async def test_tokens_are_counted_for_adapters(start: StartServer, path: str) -> None:
    server = start()
    await load(server, "a")
    assert (await server.request("POST", path, json=make_body(model="a"))).status_code == 200
    assert (await server.request("POST", path, json=make_body(model="b"))).status_code == 404


async def test_models_list_adapters_with_their_parent(start: StartServer) -> None:
    server = start()
    await load(server, "mine", "a")
    base, adapter = (await server.request("GET", "/v1/models")).json()["data"]
    assert (base["id"], base["root"], base["parent"]) == ("qwen", "qwen", None)
    assert (adapter["id"], adapter["root"], adapter["parent"]) == ("mine", "a", "qwen")
    assert (await server.request("GET", "/v1/models/mine")).json() == adapter
    await unload(server, "mine")
    assert_error(await server.request("GET", "/v1/models/mine"), 404, "model_not_found")
    message = assert_error(await server.post(model="mine"), 404, "model_not_found", "model")
    assert message == "the model served here is `qwen`"


async def test_only_adapters_of_the_tower_have_images_of_their_own(start: StartServer) -> None:
    server = start()
    for name in ("a", "b", "tower"):
        await load(server, name)
    await load(server, "same", "tower")
    content = [image_part()]
    for model in ("qwen", "a", "b", "tower", "same"):
        assert (await server.post(content, model=model)).status_code == 200
    plain, *others = server.pipeline.tenants
    assert others[:2] == [plain, plain]
    assert plain not in others[2:]
    assert len(set(others[2:])) == 1  # one content, whatever its name


async def test_a_request_under_way_keeps_an_adapter_that_is_unloaded(start: StartServer) -> None:
    release = asyncio.Event()
    server = start(make_chunk("A"), release, make_chunk(" cat.", finish="stop"))
    await load(server, "a")
    under_way = asyncio.create_task(server.post(model="a"))
    await server.engine.has_started.wait()
    assert (await unload(server, "a")).json() == {"lora_name": "a", "status": "unloaded"}
    assert_error(await server.post(model="a"), 404, "model_not_found", "model")
    await settle()
    ((number, folder),) = server.engine.loras.items()
    assert (folder / "adapter_model.safetensors").exists()
    release.set()
    answer = await under_way
    assert answer.json()["choices"][0]["message"]["content"] == "A cat."
    await settle()
    assert server.engine.loras == {}
    assert not folder.exists()
    assert server.engine.requests[0].adapter is not None
    assert server.engine.requests[0].adapter.lora_int_id == number


async def test_an_adapter_is_replaced_in_place(start: StartServer, root: Path) -> None:
    server = start()
    await load(server, "a")
    message = assert_error(await load(server, "a", "b"), 409, "name_taken", "lora_name")
    assert "load_inplace" in message
    assert (await load(server, "a", "tower", load_inplace=True)).status_code == 200
    await settle()
    assert len(server.engine.loras) == 1
    await server.post(model="a")
    adapter = server.engine.requests[-1].adapter
    assert adapter is not None
    assert adapter.has_tower
    assert adapter.lora_int_id in server.engine.loras


async def test_the_engine_reads_a_copy(start: StartServer, root: Path) -> None:
    server = start()
    await load(server, "a")
    (root / "a" / "adapter_model.safetensors").write_bytes(b"")
    (folder,) = server.engine.loras.values()
    assert folder.resolve().is_relative_to(root.resolve()) is False
    assert (folder / "adapter_model.safetensors").stat().st_size > 0


async def test_as_many_are_loaded_as_the_setting_says(start: StartServer) -> None:
    server = start(max_cpu_loras=2)
    await load(server, "a")
    await load(server, "b")
    message = assert_error(await load(server, "tower"), 409, "too_many_adapters")
    assert "`engine.max_cpu_loras` allows 2" in message
    assert (await load(server, "b", "tower", load_inplace=True)).status_code == 200
    await unload(server, "a")
    assert (await load(server, "a")).status_code == 200


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"lora_name": "qwen"}, 409, "name_taken", "lora_name"),
        ({"lora_name": ""}, 400, "invalid_value", "lora_name"),
        ({"lora_name": "a b"}, 400, "invalid_value", "lora_name"),
        ({"lora_name": "a" * 129}, 400, "invalid_value", "lora_name"),
        ({"lora_name": None}, 400, "invalid_value", "lora_name"),
        ({"lora_path": ""}, 400, "invalid_value", "lora_path"),
        ({"lora_path": ["a"]}, 400, "invalid_value", "lora_path"),
        ({"load_inplace": "yes"}, 400, "invalid_value", "load_inplace"),
        ({"lora_path": "../a"}, 400, "invalid_adapter", "lora_path"),
        ({"lora_path": "/etc"}, 400, "invalid_adapter", "lora_path"),
        ({"lora_path": "a\0b"}, 400, "invalid_adapter", "lora_path"),
        ({"lora_path": "missing"}, 400, "invalid_adapter", "lora_path"),
        ({"lora_path": "a/adapter_config.json"}, 400, "invalid_adapter", "lora_path"),
    ],
)
async def test_what_cannot_be_loaded_is_refused(
    start: StartServer, root: Path, fields: dict[str, Any], status: int, code: str, param: str
) -> None:
    server = start()
    body = {"lora_name": "new", "lora_path": "a", **fields}
    response = await server.request("POST", LOAD, json=body)
    message = assert_error(response, status, code, param)
    assert str(root) not in message
    assert server.engine.loras == {}
    assert (await load(server, "a")).status_code == 200


async def test_a_field_is_named_if_it_is_missing(start: StartServer) -> None:
    response = await start().request("POST", LOAD, json={"lora_name": "a"})
    assert_error(response, 400, "missing_parameter", "lora_path")


async def test_what_the_engine_refuses_is_an_error_of_the_client(start: StartServer) -> None:
    server = start()
    server.engine.lora_failure = AdapterRefused("the engine cannot load it")
    message = assert_error(await load(server, "a"), 400, "invalid_adapter", "lora_path")
    assert message == "`lora_path`: the engine cannot load it"
    server.engine.lora_failure = None
    assert (await load(server, "a")).status_code == 200


async def test_an_unknown_adapter_cannot_be_unloaded(start: StartServer) -> None:
    server = start()
    assert_error(await unload(server, "a"), 404, "adapter_not_found", "lora_name")
    assert_error(await unload(server, "qwen"), 404, "adapter_not_found", "lora_name")


@pytest.mark.parametrize("path", [LOAD, UNLOAD])
async def test_clients_change_nothing_unless_a_setting_lets_them(
    start: StartServer, path: str
) -> None:
    body = {"lora_name": "a", "lora_path": "a"}
    for server in (start(lora_dir=None), Server()):
        response = await server.request("POST", path, json=body)
        message = assert_error(response, 404, "lora_loading_off")
        assert "engine.lora_dir" in message


async def test_adapters_of_the_settings_are_loaded_at_start(start: StartServer, root: Path) -> None:
    modules = (f"one={root / 'a'}", f"two={root / 'tower'}")
    server = start(lora_dir=None, lora_modules=modules)
    await server.adapters.load_configured()
    assert (await server.post(model="two")).status_code == 200
    models = (await server.request("GET", "/v1/models")).json()["data"]
    assert [model["id"] for model in models] == ["qwen", "one", "two"]
    assert str(root) not in str(models)


async def test_a_wrong_adapter_in_the_settings_stops_the_start(
    start: StartServer, root: Path
) -> None:
    server = start(lora_modules=(f"one={root / 'none'}",))
    with pytest.raises(RuntimeError, match=r"engine.lora_modules: one: adapter_config.json is mis"):
        await server.adapters.load_configured()


async def test_nothing_is_left_when_the_server_ends(start: StartServer) -> None:
    server = start()
    await load(server, "a")
    (folder,) = server.engine.loras.values()
    await server.state.close()
    assert not folder.parent.exists()
