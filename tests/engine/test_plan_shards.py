"""Planned weights against the parameters that vLLM gives one rank of the published models."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from model_executor.sizing.model_shape import read_model_shape
from model_executor.sizing.parallel_layout import ParallelLayout
from model_executor.sizing.weights import stage_weights

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CASES = [
    pytest.param("2B", ParallelLayout(), 0, id="one device"),
    pytest.param("8B", ParallelLayout(tensor_parallel_size=4), 3, id="a split vision tower"),
    pytest.param("2B", ParallelLayout(2, 2), 0, id="first stage of a tied model"),
    pytest.param("2B", ParallelLayout(2, 2), 2, id="last stage of a tied model"),
    pytest.param("4B", ParallelLayout(1, 8), 5, id="a middle stage, layers shared unevenly"),
    pytest.param("30B-A3B", ParallelLayout(8), 5, id="more ranks than key-value heads"),
    pytest.param(
        "235B-A22B", ParallelLayout(8, enable_expert_parallel=True), 7, id="whole experts"
    ),
    pytest.param(
        "30B-A3B",
        ParallelLayout(2, data_parallel_size=4, enable_expert_parallel=True),
        0,
        id="experts over replicas",
    ),
    pytest.param("30B-A3B", ParallelLayout(2, data_parallel_size=2), 1, id="slices over replicas"),
]


@pytest.mark.parametrize(("size", "layout", "rank"), CASES)
def test_a_rank_has_the_planned_bytes(size: str, layout: ParallelLayout, rank: int) -> None:
    case = {"size": size, "layout": asdict(layout), "rank": rank}
    del case["layout"]["mm_encoder_tp_mode"]  # type: ignore[attr-defined]
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine.sharded_on_meta", json.dumps(case)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    stage = rank // layout.tensor_parallel_size % layout.pipeline_parallel_size
    model = read_model_shape(f"Qwen/Qwen3-VL-{size}-Instruct")
    planned = stage_weights(model, layout, stage)
    assert found == {
        "total": planned.total,
        "vision": planned.vision,
        "experts": planned.experts,
    }
