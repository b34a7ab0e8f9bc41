"""Text alone: tokens per second, times and memory at 1, 8 and 32 requests at once.

    python -m benchmarks.text --stock-python STOCK/bin/python

`qwen3vl-serve bench` starts both servers and asks them in turn, in blocks. The model is so small
that most of the time is what a server adds to it.
"""

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.arguments import Arguments, parse_arguments
from benchmarks.cache import temporary_cache
from benchmarks.load.cli import main as bench
from benchmarks.load.result import Result, Step, read_result
from benchmarks.load.summary import Summary
from benchmarks.report import Aim, Report, Row, Unit
from benchmarks.servers import EngineNumbers, Launch, our_launch, stock_launch
from benchmarks.shapes import checkpoint

# Requests at once, and how many in all: in each of the blocks twice as many, or more.
_NUM_REQUESTS = {1: 24, 8: 128, 32: 512}
_NUM_BLOCKS = 8
_INPUT_TOKENS, _OUTPUT_TOKENS = 32, 128
_MAX_NUM_SEQS = 64
_MAX_TOKEN_DIFFERENCE = 0.01
_GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Quantity:
    """`metric` is what the load test calls it; `read` takes it, in `unit`, from a summary."""

    metric: str
    name: str
    unit: Unit
    read: Callable[[Summary], float]


_THROUGHPUT = Quantity(
    "completion_tokens_per_s", "tokens out", "tokens/s", lambda s: s.throughput.completion_tokens
)
_TPOT = Quantity("tpot_p50", "time per token", "ms", lambda s: s.latencies["tpot"].p50 * 1000)
_TTFT = Quantity("ttft_p50", "first token", "ms", lambda s: s.latencies["ttft"].p50 * 1000)
_QUANTITIES = (_THROUGHPUT, _TPOT, _TTFT)
_AIMED = (_THROUGHPUT.name, _TPOT.name)


def main() -> None:
    arguments = parse_arguments(__doc__)
    with temporary_cache() as cache, TemporaryDirectory() as folder:
        ours, stock = _launches(arguments, cache.variables)
        argv = [*_options(), "--command", ours.command_line, "--vs-command", stock.command_line]
        print(shlex.join(["qwen3vl-serve", "bench", *argv]), file=sys.stderr)
        if bench([*argv, "--output-dir", folder]) != 0:
            sys.exit("the load test failed")
        result = read_result(Path(folder) / "result.json")
    found = rows(result)
    Report("text", found, aims(found), result.warnings).print()


def _launches(arguments: Arguments, cache: dict[str, str]) -> tuple[Launch, Launch]:
    folder = checkpoint(arguments.checkpoints, arguments.shape)
    numbers = EngineNumbers(max_num_seqs=_MAX_NUM_SEQS)
    return (
        our_launch(folder, numbers, cache),
        stock_launch(arguments.stock_python, folder, numbers),
    )


def _options() -> list[str]:
    options = {
        "--workload": "chat",
        "--input-tokens": _INPUT_TOKENS,
        "--output-tokens": _OUTPUT_TOKENS,
        "--concurrency": ",".join(map(str, _NUM_REQUESTS)),
        "--num-requests": ",".join(map(str, _NUM_REQUESTS.values())),
        "--num-blocks": _NUM_BLOCKS,
    }
    return [str(part) for option in options.items() for part in option]


def rows(result: Result) -> list[Row]:
    """Raises: RuntimeError if requests failed, or the two were asked for different work."""
    for step in result.steps:
        check(step)
    return [row for step in result.steps for row in _step_rows(step)] + _memory_rows(result)


def check(step: Step) -> None:
    ours, stock = (summary.totals for summary in step.summaries)
    if ours.errors or stock.errors:
        raise RuntimeError(f"requests failed: {ours.errors} (ours), {stock.errors} (stock)")
    if ours.completion_tokens != stock.completion_tokens:
        raise RuntimeError(f"the answers differ in length: {ours} (ours), {stock} (stock)")
    difference = abs(ours.prompt_tokens - stock.prompt_tokens)
    if difference > _MAX_TOKEN_DIFFERENCE * stock.prompt_tokens:
        raise RuntimeError(f"the prompts differ: {ours} (ours), {stock} (stock)")


def _step_rows(step: Step) -> Iterator[Row]:
    ratios = {ratio.metric: ratio for ratio in step.ratios}
    for quantity in _QUANTITIES:
        ours, stock = map(quantity.read, step.summaries)
        ratio = ratios[quantity.metric]
        name = f"{step.load.label}: {quantity.name}"
        yield Row(name, ours, stock, quantity.unit, ratio.low, ratio.high)


def _memory_rows(result: Result) -> list[Row]:
    ours, stock = (target.memory for target in result.targets)
    assert ours is not None and stock is not None  # both were started for the run
    sizes = {
        "memory when ready": (ours.idle_bytes, stock.idle_bytes),
        "memory at most": (ours.peak_bytes, stock.peak_bytes),
    }
    return [Row(name, own / _GIB, other / _GIB, "GiB") for name, (own, other) in sizes.items()]


def aims(rows: Sequence[Row]) -> list[Aim]:
    """No worse than stock, as far as the noise lets one tell."""
    return [
        Aim(f"{row.name}: times better than stock, upper end of the 95 % interval", row.high, 1.0)
        for row in rows
        if row.high is not None and row.name.endswith(_AIMED)
    ]


if __name__ == "__main__":
    main()
