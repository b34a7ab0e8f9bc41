"""What a real start on a CPU allocates, against the plan."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest

from demo.checkpoint import CheckpointSpec
from demo.embedded import EMBEDDED_CHECKPOINT
from demo.random_checkpoint import build_checkpoint
from model_executor.sizing.activations import buffer_bytes, language_bytes, vision_bytes
from model_executor.sizing.kv_cache import kv_bytes_per_token, tokens_that_fit
from model_executor.sizing.model_shape import ModelShape, read_model_shape
from model_executor.sizing.parallel_layout import ParallelLayout
from model_executor.sizing.weights import packed_bytes, stage_weights
from tests.parity.published import transformers_config

ROOT = Path(__file__).parents[2]
_NUM_TOKENS = 1024  # of a step
_MAX_MODEL_LEN = 1024
_WITHIN = 0.05
_MIB = 1024**2
_LARGE_BYTES = 9_000_000_000


class RealStart:
    """One start of vLLM in a process of its own, measured from inside, and the plan for it."""

    def __init__(
        self, folder: Path, layout: ParallelLayout, grid: tuple[int, int], **options: Any
    ) -> None:
        self.layout, self.grid = layout, grid
        self.model: ModelShape = read_model_shape(str(folder), dtype="bfloat16")
        self.kv_cache_bytes: int = options.pop("kv_cache_bytes", 64 * _MIB)
        sizes = {
            name: value
            for name, value in asdict(layout).items()
            if value not in (1, False, "weights")
        }
        case = {
            "model": str(folder),
            "layout": sizes,
            "kv_cache_bytes": self.kv_cache_bytes,
            "max_num_batched_tokens": _NUM_TOKENS,
            "max_model_len": _MAX_MODEL_LEN,
            "grid": grid,
            **options,
        }
        self.found = _run(case)
        self.ranks: list[Mapping[str, int]] = self.found["ranks"]

    @property
    def num_patches(self) -> int:
        return self.grid[0] * self.grid[1]


def _run(case: Mapping[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine.plan_probe", json.dumps(case)],
        cwd=ROOT,
        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith('{"num_blocks"'))
    found: dict[str, Any] = json.loads(line)
    return found


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("plan")
    moe = CheckpointSpec(is_moe=True, num_experts=6, num_layers=6)
    return {
        "dense": build_checkpoint(folder / "dense", CheckpointSpec()),
        "moe": build_checkpoint(folder / "moe", moe),
    }


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("dense", ParallelLayout()), id="dense"),
        pytest.param(("moe", ParallelLayout()), id="MoE"),
        pytest.param(("dense", ParallelLayout(2)), id="dense, TP 2", marks=pytest.mark.slow),
        pytest.param(
            ("moe", ParallelLayout(2, enable_expert_parallel=True)),
            id="MoE, TP 2, EP 2",
            marks=pytest.mark.slow,
        ),
    ],
)
def start(request: pytest.FixtureRequest, checkpoints: Mapping[str, Path]) -> Iterator[RealStart]:
    name, layout = request.param
    yield RealStart(checkpoints[name], layout, (32, 32))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> RealStart:
    """The 2B model's sizes, weights without meaning: 7.5 GB while it runs."""
    if psutil.virtual_memory().available < _LARGE_BYTES:
        pytest.skip(f"needs {_LARGE_BYTES / 1e9:.0f} GB of free memory")
    folder = tmp_path_factory.mktemp("plan") / "2b"
    folder.mkdir()
    for pattern in ("*token*", "*preprocessor*"):
        for file in EMBEDDED_CHECKPOINT.glob(pattern):
            (folder / file.name).symlink_to(file)
    transformers_config("2B").save_pretrained(folder)
    return RealStart(
        folder, ParallelLayout(), (32, 32), load_format="dummy", kv_cache_bytes=1024 * _MIB
    )


def test_weights_are_exact(start: RealStart) -> None:
    planned = stage_weights(start.model, start.layout)
    for rank in start.ranks:
        assert (rank["weights"], rank["vision"], rank["experts"]) == (
            planned.total,
            planned.vision,
            planned.experts,
        )


def test_the_kv_cache_is_exact(start: RealStart) -> None:
    check_kv_cache(start)


def check_kv_cache(start: RealStart) -> None:
    """Bytes of a token, the whole cache and the tokens in it; the first block is nobody's."""
    per_token = kv_bytes_per_token(start.model, start.layout)
    num_tokens = start.found["num_blocks"] * start.found["block_tokens"]
    assert start.found["block_tokens"] == 128
    assert {rank["kv_cache"] for rank in start.ranks} == {num_tokens * per_token}
    planned = tokens_that_fit(start.kv_cache_bytes, per_token, 128)
    assert planned == num_tokens - 128


def test_buffers_are_exact(start: RealStart) -> None:
    planned = buffer_bytes(start.model, _NUM_TOKENS, _MAX_MODEL_LEN)
    assert {rank["buffers"] for rank in start.ranks} == {planned}


def test_activations_are_as_planned(start: RealStart) -> None:
    check_activations(start)


def check_activations(start: RealStart) -> None:
    model, layout = start.model, start.layout
    image = vision_bytes(model, layout, start.num_patches, is_cpu=True)
    video = vision_bytes(model, layout, start.num_patches, is_cpu=True, is_video=True)
    planned_peaks = {"image": image, "video": video}
    if not model.is_moe:  # a plan counts a GPU's workspaces of experts
        planned_peaks["language"] = language_bytes(model, layout, _NUM_TOKENS, is_cpu=True)
    for name, planned in planned_peaks.items():
        for peak in start.found[f"{name}_peaks"]:
            assert planned == pytest.approx(peak, rel=_WITHIN), name


@pytest.mark.slow
def test_a_2b_model_takes_the_planned_memory(large: RealStart) -> None:
    """Resident memory from before the model is built until the engine is up."""
    model, layout, rank = large.model, large.layout, large.ranks[0]
    weights = stage_weights(model, layout)
    assert rank["weights"] == weights.total
    planned = weights.total + packed_bytes(model, layout) + rank["kv_cache"]
    planned += buffer_bytes(model, _NUM_TOKENS, _MAX_MODEL_LEN)
    assert planned == pytest.approx(rank["resident"] - rank["resident_before"], rel=_WITHIN)


@pytest.mark.slow
def test_a_2b_model_has_the_planned_cache_and_activations(large: RealStart) -> None:
    check_kv_cache(large)
    check_activations(large)
