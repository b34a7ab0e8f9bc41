"""What an operator sees of a server with the real engine."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.e2e.real_media import count_bunny_tokens, count_image_tokens, image, text, video
from tests.e2e.real_server import HOST_DIR, MODEL_NAME, RealServer, wait_until


def test_health_names_our_model_class(hybrid: RealServer):
    body = hybrid.http.get("/health").json()
    assert body == {
        "status": "ok",
        "implementation": "model_executor.qwen3_vl.model.Qwen3VLForConditionalGeneration",
    }


def test_list_of_models_says_that_the_weights_are_random(hybrid: RealServer):
    (model,) = hybrid.http.get("/v1/models").json()["data"]
    assert (model["id"], model["kind"]) == (MODEL_NAME, "hybrid")
    assert model["random_weights"] is True
    assert model["max_model_len"] == 32768


def test_log_says_that_the_weights_are_random(hybrid: RealServer):
    assert "the weights of tiny are random" in hybrid.log


def test_metrics_count_the_tokens_of_our_media_path(hybrid: RealServer):
    def counts() -> list[float]:
        tokens = [hybrid.sample("qwen3vl_prompt_tokens_total", kind=k) for k in ("image", "video")]
        return [*tokens, hybrid.sample("qwen3vl_media_items_total", modality="image")]

    hybrid.ask([image(), video(), text("hi")])
    before = counts()
    hybrid.ask([image(), video(), text("hi")])
    growth = [after - earlier for after, earlier in zip(counts(), before, strict=True)]
    assert growth == [count_image_tokens(640, 427), count_bunny_tokens(), 1]


def test_metrics_of_the_engine_stand_beside_ours(hybrid: RealServer):
    names = ("qwen3vl_completion_tokens_total", "vllm:generation_tokens_total")
    before = [hybrid.sample(name) for name in names]
    hybrid.ask("hi", max_tokens=9, extra_body={"ignore_eos": True})
    after = [count + 9 for count in before]
    # the engine's are recorded beside the answer, so either may come first
    wait_until(lambda: [hybrid.sample(name) for name in names] == after)


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Not pytest's: vLLM puts sockets there, whose paths must be short."""
    with TemporaryDirectory() as folder:
        yield Path(folder)


def test_no_request_needs_a_compiler_and_nothing_is_left_after_the_end(
    hybrid_checkpoint: Path, tmp_path: Path, temporary: Path
):
    """vLLM compiles parts of its sampler in C++ when a request first asks for logprobs."""
    variables = {
        "CXX": "/missing",
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor"),
        "TMPDIR": str(temporary),
    }
    with RealServer(hybrid_checkpoint, tmp_path / "log", variables, max_model_len=256) as server:
        answer = server.ask("hi", max_tokens=3, logprobs=True, top_logprobs=2)
        assert len(answer.choices[0].logprobs.content) == 3
        server.terminate()
        assert server.wait() == 0
        assert "CRITICAL" not in server.log
    # vLLM names this file of its distributed set-up itself and leaves it
    assert [path.name for path in temporary.iterdir() if "vllm_dist" not in path.name] == []


def read_details(server: RealServer) -> Any:
    answer = server.http.get("/health", params={"details": "1"})
    assert answer.status_code == 200, answer.text
    return answer.json()["details"]


def test_details_say_how_the_model_runs(hybrid: RealServer):
    hybrid.ask([image(), text("hi")])
    details = read_details(hybrid)
    assert (details["device"], details["dtype"]) == ("cpu", "float32")
    assert details["tensor_parallel_size"] == details["pipeline_parallel_size"] == 1
    host_dir = Path(hybrid.process.environ()[HOST_DIR])
    wait_until(lambda: (host_dir / details["vision_cache_namespace"]).is_dir())
    (worker,) = details["weights"]["workers"]
    assert details["weights"]["is_consistent"] is True
    assert worker["num_bytes"] > 1_000_000
    assert read_details(hybrid) == details


@pytest.mark.slow
def test_checksums_tell_other_weights_and_are_the_same_after_a_restart(
    hybrid: RealServer, hybrid_checkpoint: Path, tmp_path: Path
):
    changed = shutil.copytree(hybrid_checkpoint, tmp_path / "checkpoint")
    tensors = load_file(changed / "model.safetensors")
    tensors["model.language_model.layers.1.mlp.down_proj.weight"][-1, -1] *= 1.001
    save_file(tensors, changed / "model.safetensors", metadata={"format": "pt"})
    checksums = []
    for name, checkpoint in (("again", hybrid_checkpoint), ("changed", changed)):
        with RealServer(checkpoint, tmp_path / name, max_model_len=256) as server:
            checksums.append(read_details(server)["weights"]["checksum"])
    assert checksums[0] == read_details(hybrid)["weights"]["checksum"] != checksums[1]


def test_sleep_is_off(hybrid: RealServer):
    assert hybrid.http.post("/sleep").json()["error"]["code"] == "sleep_mode_off"
