"""LoRA on a real server: answers as in transformers with peft, whatever the vision cache holds."""

import asyncio
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from prometheus_client import CollectorRegistry

from demo.embedded import EMBEDDED_CHECKPOINT
from model_executor.parity import ParityCase, Reference
from multimodal.items import LoadedMedia
from multimodal.pipeline import MediaPipeline
from multimodal.preprocessor_config import load_preprocessor_config
from server.held_bytes import BodyBytes
from server.lora_adapters import LoraAdapters
from server.metrics import Metrics
from server.preparation import Preparation
from server.prompt import PromptRenderer
from server.protocol import ChatCompletionRequest
from server.settings import Settings
from server.state import Backend
from tests.e2e.real_cache import Reply, ask, count, picture_part, start, window_part
from tests.e2e.real_media import text
from tests.e2e.real_server import MODEL_NAME, RealServer, make_request, open_stream, wait_until
from tests.fake_backend import FakeFetcher, FakeGrammars, assert_error
from tests.fake_engine import FakeEngine
from tests.lora_adapters import apply_adapter, make_adapter

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
MODEL = str(EMBEDDED_CHECKPOINT)
PARTS = {
    "language": ("language",),
    "tower": ("tower",),
    "tower2": ("tower",),
    "both": ("language", "tower"),
}
TOWERS = ("tower", "tower2", "both")
NAMES = (MODEL_NAME, *PARTS)
QUESTION = text("What is it?")
_TOLERANCE = 1e-3  # of logprobs
_NUM_TOKENS = 8

Expect = Callable[..., list[float]]


@pytest.fixture(scope="module")
def lora_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    for seed, (name, parts) in enumerate(PARTS.items()):
        make_adapter(MODEL, folder / name, *parts, seed=seed, std=0.5)
    return folder


def serving(log_path: Path, lora_dir: Path, **options: Any) -> RealServer:
    """All four adapters loaded at start, two of which may be in a step."""
    modules = ",".join(f"{name}={lora_dir / name}" for name in PARTS)
    return start(
        log_path,
        enable_lora=True,
        max_loras=2,
        lora_modules=modules,
        **{"lora_dir": lora_dir, **options},
    )


@pytest.fixture(scope="module")
def server(logs: Path, lora_dir: Path) -> Iterator[RealServer]:
    with serving(logs / "lora", lora_dir) as server:
        yield server


@pytest.fixture(scope="module")
def expected(lora_dir: Path) -> Expect:
    """Name of an adapter, pictures -> logprobs of transformers' greedy tokens."""

    @cache
    def reference(name: str) -> Reference:
        reference = Reference(MODEL, load_preprocessor_config(MODEL))
        if name != MODEL_NAME:
            apply_adapter(reference._model, lora_dir / name)
        return reference

    @cache
    def run(name: str, *seeds: int) -> list[float]:
        request = make_request(content(*seeds), chat_template_kwargs={"enable_thinking": False})
        answer = reference(name).run(asyncio.run(prepare_case(request)), _NUM_TOKENS)
        logprobs = torch.log_softmax(answer.logits[-_NUM_TOKENS:], dim=-1)
        return logprobs.gather(1, torch.tensor([answer.generated]).T).flatten().tolist()

    return run


def content(*seeds: int) -> list[dict[str, Any]]:
    return [*(picture_part(seed) for seed in seeds), QUESTION]


async def prepare_case(request: dict[str, Any]) -> ParityCase:
    """The prompt that the server makes of a request with pictures."""
    engine, settings = FakeEngine(max_model_len=1024), Settings()
    pipeline = MediaPipeline(
        load_preprocessor_config(MODEL), settings.media.limits, namespace="", num_workers=1
    )
    adapters = LoraAdapters(engine, settings.engine)
    backend = Backend(
        engine, PromptRenderer(MODEL), pipeline, FakeFetcher(), FakeGrammars(), adapters
    )
    metrics, held = Metrics(CollectorRegistry()), BodyBytes(1024**3, 1024**3)
    try:
        parsed = ChatCompletionRequest.model_validate(request)
        with held.account("") as account:
            preparation = Preparation(backend, settings, metrics, "", account)
            expanded = (await preparation.prepare_chat(parsed)).expanded
    finally:
        await pipeline.close()
    media = tuple(LoadedMedia("image", (placed.item,)) for placed in expanded.items)
    return ParityCase("asked", expanded.token_ids, expanded.items, media)


def assert_right(reply: Reply, expected: list[float]) -> None:
    drawn = reply.logprobs[0][::3]  # each is followed by those of the two most likely
    assert drawn == pytest.approx(expected, abs=_TOLERANCE)


def post(server: RealServer, path: str, **body: Any) -> httpx.Response:
    return server.http.post(path, json=body)


def load(server: RealServer, name: str, path: Path | str, **fields: Any) -> httpx.Response:
    return post(server, LOAD, lora_name=name, lora_path=str(path), **fields)


# ---- answers


def test_the_adapters_give_answers_of_their_own(expected: Expect) -> None:
    answers = [expected(name, 1) for name in NAMES]
    for index, answer in enumerate(answers):
        for other in answers[:index]:
            assert answer != pytest.approx(other, abs=100 * _TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_under_an_adapter_is_that_of_transformers(
    server: RealServer, expected: Expect, name: str
) -> None:
    for seeds in ((), (2,), (2, 3)):
        assert_right(ask(server, content(*seeds), model=name), expected(name, *seeds))


def test_the_models_are_listed(server: RealServer) -> None:
    models = server.http.get("/v1/models").json()["data"]
    assert [model["id"] for model in models] == list(NAMES)
    assert [model["parent"] for model in models] == [None, *[MODEL_NAME] * len(PARTS)]
    assert_error(
        server.http.post("/v1/chat/completions", json=make_request("hi", model="other")),
        404,
        "model_not_found",
        "model",
    )


# ---- the vision cache


def test_one_picture_looks_different_to_each_adapter_of_the_tower(
    server: RealServer, expected: Expect
) -> None:
    """Five times through all of them; whoever does not change the tower sees the model's own."""
    asked: Any = content(4)
    seen: set[str] = set()
    for _ in range(5):
        for name in NAMES:
            reply = ask(server, asked, model=name)
            assert_right(reply, expected(name, 4))
            tower = name if name in TOWERS else MODEL_NAME
            # the KV cache may have it as well, but that of the same model only
            assert (reply.sources == ("encoded",)) == (tower not in seen), (name, reply.sources)
            seen.add(tower)


def test_many_at_once_get_the_answers_of_their_adapters(
    server: RealServer, expected: Expect
) -> None:
    """New pictures and a video, in steps with two adapters and none."""
    jobs = [(name, seed) for seed in range(10, 14) for name in NAMES]
    for name, seed in jobs:
        expected(name, seed)
    clip = [window_part(0, 2), QUESTION]
    with ThreadPoolExecutor(len(jobs) + len(NAMES)) as threads:
        clips = [threads.submit(ask, server, clip, model=name) for name in NAMES]
        replies = list(threads.map(lambda job: ask(server, content(job[1]), model=job[0]), jobs))
    for (name, seed), reply in zip(jobs, replies, strict=True):
        assert_right(reply, expected(name, seed))
    for name, answer in zip(NAMES, clips, strict=True):
        answer.result().assert_same_as(ask(server, clip, model=name))


@pytest.mark.slow
def test_a_restarted_server_finds_the_embeddings_of_each_adapter(
    logs: Path, lora_dir: Path, expected: Expect, tmp_path: Path
) -> None:
    variables = {"disk_dir": tmp_path / "disk", "host_bytes": 0}
    with serving(logs / "lora-first", lora_dir, **variables) as server:
        for name in NAMES:
            ask(server, content(5), model=name)
        wait_until(lambda: len(list((tmp_path / "disk").rglob("*.vision"))) == 1 + len(TOWERS))
    with serving(logs / "lora-second", lora_dir, **variables) as server:
        for name in reversed(NAMES):
            reply = ask(server, content(5), model=name)
            # after the model itself, the adapter of the language finds it on the device
            assert reply.sources[0] in ("disk", "device")
            assert_right(reply, expected(name, 5))
        assert count(server).encoded == 0


@pytest.mark.slow
def test_patches_asked_for_later_are_encoded_with_the_right_adapter(
    logs: Path, lora_dir: Path, expected: Expect
) -> None:
    """A cache of one picture, and no tier behind it: the engine asks for patches again and again.

    The server takes what it has sent once for known.
    """
    options = {"device_bytes": 0, "host_bytes": 0, "max_model_len": 256}
    with serving(logs / "lora-no-tiers", lora_dir, **options) as server:
        for _ in range(3):
            for name in NAMES:
                for seeds in ((6, 7), (7, 6)):
                    assert_right(ask(server, content(*seeds), model=name), expected(name, *seeds))
        assert count(server).retries > 0


# ---- loading and unloading


def test_an_adapter_is_loaded_used_replaced_and_unloaded(
    server: RealServer, lora_dir: Path, expected: Expect
) -> None:
    asked: Any = content(8)
    assert load(server, "mine", "tower").status_code == 200
    assert_right(ask(server, asked, model="mine"), expected("tower", 8))
    assert_error(load(server, "mine", "both"), 409, "name_taken", "lora_name")
    assert load(server, "mine", lora_dir / "both", load_inplace=True).status_code == 200
    assert_right(ask(server, asked, model="mine"), expected("both", 8))
    assert post(server, UNLOAD, lora_name="mine").status_code == 200
    gone = post(server, "/v1/chat/completions", **make_request("hi", model="mine"))
    assert_error(gone, 404, "model_not_found", "model")
    assert_right(ask(server, asked), expected(MODEL_NAME, 8))


def test_a_stream_under_way_outlives_its_adapter(server: RealServer) -> None:
    """Another one takes its name meanwhile, and others its place in the engine."""
    options = {"model": "brief", "max_tokens": 300, "ignore_eos": True, "logprobs": True}
    assert load(server, "brief", "both").status_code == 200
    whole = post(server, "/v1/chat/completions", **make_request(content(9), **options)).json()
    with open_stream(server, content(9), **options) as lines:
        next(lines)
        assert post(server, UNLOAD, lora_name="brief").status_code == 200
        assert load(server, "brief", "tower2").status_code == 200
        for name in (*NAMES, "brief"):
            ask(server, content(9), model=name)
        events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    choices = [event["choices"][0] for event in events if event["choices"]]
    assert choices[-1]["finish_reason"] == "length"
    streamed = "".join(choice["delta"].get("content") or "" for choice in choices)
    assert whole["choices"][0]["message"]["content"].endswith(streamed)
    assert len(streamed) > 100
    assert post(server, UNLOAD, lora_name="brief").status_code == 200


# ---- what is wrong


def _tear(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    os.truncate(path, path.stat().st_size // 2)


def _edit_config(**fields: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return edit


def _pickle(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()
    torch.save({}, folder / "adapter_model.bin")


def _link_out(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()
    (folder / "adapter_config.json").symlink_to("/etc/passwd")


def _take_foreign(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "adapter_model.safetensors"
    tensors = {
        name.replace("q_proj", "query").replace("qkv", "query"): tensor
        for name, tensor in load_file(path).items()
    }
    save_file(tensors, path)


SPOILED = {
    "torn": (_tear, "is damaged"),
    "no-config": (lambda folder: (folder / "adapter_config.json").unlink(), "is missing"),
    "rank": (_edit_config(r=64), "`engine.max_lora_rank` (16)"),
    "other-rank": (_edit_config(r=8), "has shape"),
    "foreign": (_take_foreign, "target module"),
    "pickled": (_pickle, "pickled"),
    "linked": (_link_out, "must lie below"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_adapter_is_refused_and_the_engine_lives(
    server: RealServer, lora_dir: Path, expected: Expect, name: str
) -> None:
    spoil, reason = SPOILED[name]
    folder = shutil.copytree(lora_dir / "both", lora_dir / f"spoiled-{name}")
    spoil(folder)
    message = assert_error(
        load(server, "spoiled", folder.name), 400, "invalid_adapter", "lora_path"
    )
    assert reason in message
    assert str(lora_dir) not in message
    for model in NAMES:
        assert_right(ask(server, content(2), model=model), expected(model, 2))
    assert server.http.get("/health").status_code == 200


def test_files_may_go_once_an_adapter_is_loaded(
    server: RealServer, lora_dir: Path, expected: Expect
) -> None:
    """Five adapters take turns in two places, so that each is read again."""
    folder = shutil.copytree(lora_dir / "both", lora_dir / "passing")
    assert load(server, "passing", "passing").status_code == 200
    shutil.rmtree(folder)
    for _ in range(2):
        for name in NAMES:
            ask(server, content(2), model=name)
        assert_right(ask(server, content(2), model="passing"), expected("both", 2))
    assert post(server, UNLOAD, lora_name="passing").status_code == 200
