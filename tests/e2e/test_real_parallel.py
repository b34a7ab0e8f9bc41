"""One model in several processes of a CPU: the same tokens as in one, with the vision cache on."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from demo.checkpoint import CheckpointSpec
from demo.random_checkpoint import build_checkpoint
from tests.e2e.real_media import image, text, video
from tests.e2e.real_server import HOST_DIR, RealServer, serve_command

_NUM_TOKENS = 24
_QUESTIONS: Sequence[Any] = (
    "What is the capital of France?",
    [image(), text("What is this?")],
    [text("Again, with other words before it."), image(), text("What is this?")],
    [image(max_pixels=100_000), image(), text("Which one is larger?")],
    [video(max_pixels=40_000), image("coffee_wide.png", max_pixels=80_000), text("What moves?")],
)
LAST_QUESTION = _QUESTIONS[-1]
_LAYOUTS: Mapping[str, Mapping[str, Any]] = {
    "tensor": {"tensor_parallel_size": 2},
    "expert": {"tensor_parallel_size": 2, "enable_expert_parallel": True},
    "pipeline": {"pipeline_parallel_size": 2},
    "data": {"data_parallel_size": 2},
    "data and expert": {"data_parallel_size": 2, "enable_expert_parallel": True},
    # here vLLM splits the tokens of the MoE layers, too
    "data, tensor and expert": {
        "data_parallel_size": 2,
        "tensor_parallel_size": 2,
        "enable_expert_parallel": True,
    },
    "vision-data": {
        "tensor_parallel_size": 2,
        "mm_encoder_tp_mode": "data",
        "mm_encoder_attn_backend": "TORCH_SDPA",
    },
}


@pytest.fixture(scope="module")
def moe_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints") / "moe"
    return build_checkpoint(path, CheckpointSpec(is_moe=True, num_experts=6, num_layers=6))


@pytest.fixture(scope="module")
def expected(moe_checkpoint: Path, logs: Path) -> list[str]:
    """The answers of one process."""
    with serving(moe_checkpoint, logs, "one") as server:
        return answers(server)


def serving(checkpoint: Path, logs: Path, name: str, **options: Any) -> RealServer:
    return RealServer(checkpoint, logs / f"parallel-{name}", max_model_len=4096, **options)


def answers(server: RealServer) -> list[str]:
    return [ask(server, question) for question in _QUESTIONS]


def ask(server: RealServer, question: Any) -> str:
    options: dict[str, Any] = {"max_tokens": _NUM_TOKENS, "temperature": 0}
    options["extra_body"] = {"ignore_eos": True}
    answer = server.ask(question, **options)
    assert answer.usage.completion_tokens == _NUM_TOKENS
    message: str = answer.choices[0].message.model_dump_json()
    return message


@pytest.mark.slow
def test_ranks_with_all_vision_weights_use_what_one_process_has_encoded(
    moe_checkpoint: Path, expected: list[str], logs: Path
) -> None:
    variables = {HOST_DIR: str(logs / "parallel-one.host")}
    options = {"tensor_parallel_size": 2, "mm_encoder_tp_mode": "data"}
    with serving(moe_checkpoint, logs, "shared", variables=variables, **options) as server:
        assert answers(server) == expected
        assert server.sample("qwen3vl_vision_cache_encoded_total") == 0


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[] if name == "expert" else [pytest.mark.slow])
        for name in _LAYOUTS
    ],
)
def parallel(
    request: pytest.FixtureRequest, moe_checkpoint: Path, logs: Path
) -> Iterator[RealServer]:
    with serving(moe_checkpoint, logs, request.param, **_LAYOUTS[request.param]) as server:
        yield server


def test_two_processes_give_the_tokens_of_one(parallel: RealServer, expected: list[str]) -> None:
    assert answers(parallel) == expected
    # by now all pictures are known
    assert answers(parallel) == expected
    assert parallel.sample("qwen3vl_vision_cache_hits_total") > 0


def test_many_at_once_give_the_tokens_of_one(parallel: RealServer, expected: list[str]) -> None:
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(partial(ask, parallel), [*_QUESTIONS] * 4))
    assert found == expected * 4
    engines = parallel.labels("vllm:generation_tokens_total", "engine")
    tokens = [parallel.sample("vllm:generation_tokens_total", engine=name) for name in engines]
    assert all(count > 0 for count in tokens)


def test_workers_agree_on_the_weights_that_they_have_in_common(parallel: RealServer) -> None:
    details = parallel.http.get("/health", params={"details": "1"}).json()["details"]
    workers = details["weights"]["workers"]
    kinds = [f"{kind}_parallel" for kind in ("data", "pipeline", "tensor")]
    ranks = [tuple(worker[f"{kind}_rank"] for kind in kinds) for worker in workers]
    assert ranks == list(product(*(range(details[f"{kind}_size"]) for kind in kinds)))
    assert details["weights"]["is_consistent"] is True
    assert len({worker["checksum"] for worker in workers}) == len(workers)  # each has its own part


@pytest.mark.slow
def test_a_split_that_cuts_deepstack_is_refused(hybrid_checkpoint: Path) -> None:
    """Four layers in two stages, of which the first would have two of the three that it feeds."""
    command = serve_command(
        str(hybrid_checkpoint), port=0, max_model_len=256, pipeline_parallel_size=2
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1
    assert "the first pipeline stage holds 2 layers, but DeepStack feeds the first 3" in done.stderr
