"""The table of sizes in docs/models.md is what `qwen3vl-serve plan` computes."""

from collections.abc import Iterator
from pathlib import Path

from model_executor.sizing.cli import make_plan, parser
from model_executor.sizing.device import GIB
from model_executor.sizing.kv_cache import kv_bytes_per_token
from model_executor.sizing.model_shape import read_model_shape
from model_executor.sizing.parallel_layout import ParallelLayout
from model_executor.sizing.published import PUBLISHED_SIZES
from model_executor.sizing.vision_cache import embedding_bytes
from model_executor.sizing.weights import num_parameters, stage_weights

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
_COUNTS = (1, 2, 4, 8)
_ONE = ParallelLayout()


def render_sizes() -> Iterator[str]:
    yield (
        "| Model | Parameters | Weights, GiB | in FP8 | KV cache, KiB a token "
        "| Vision cache, KiB a token | L4 | H100 | H100, FP8 |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for size in PUBLISHED_SIZES:
        name = f"Qwen/Qwen3-VL-{size}-Instruct"
        model, quantised = read_model_shape(name), read_model_shape(f"{name}-FP8")
        cells = (
            f"`{size}`",
            f"{num_parameters(model) / 1e9:.1f} B",
            f"{stage_weights(model, _ONE).total / GIB:.1f}",
            f"{stage_weights(quantised, _ONE).total / GIB:.1f}",
            f"{kv_bytes_per_token(model, _ONE) / 1024:.0f}",
            f"{embedding_bytes(model, 1) / 1024:.0f}",
            _gpus(name, "L4"),
            _gpus(name, "H100"),
            _gpus(f"{name}-FP8", "H100"),
        )
        yield f"| {' | '.join(cells)} |"


def _gpus(model: str, gpu: str) -> str:
    """The fewest devices of one machine that hold `plan`'s default load."""
    for count in _COUNTS:
        plan = make_plan(parser().parse_args([model, "--gpu", gpu, "--count", str(count)]), model)
        if plan.recommendation.best is not None:
            return str(count)
    return "-"


def test_the_table_of_sizes_is_the_one_of_the_code() -> None:
    assert "\n".join(render_sizes()) in PAGE.read_text()
