"""The command line that the benchmarks share."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from benchmarks.shapes import SHAPE_NAMES, ShapeName

_CHECKPOINTS = Path("~/.cache/qwen3vl-serve-benchmarks").expanduser()


@dataclass(frozen=True, slots=True)
class Arguments:
    """`checkpoints`: folder in which the models are made, once."""

    stock_python: Path
    checkpoints: Path
    shape: ShapeName


def parse_arguments(description: str | None) -> Arguments:
    """Read the command line; `description` is the docstring of the benchmark."""
    parser = shared_parser(description)
    parser.add_argument("--shape", choices=SHAPE_NAMES, default="vit-bound")
    return Arguments(**vars(parser.parse_args()))


def shared_parser(description: str | None) -> argparse.ArgumentParser:
    """What every benchmark has, those without a model of their own included."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument(
        "--stock-python",
        type=Path,
        required=True,
        help="Python of an environment with stock vLLM and nothing of this project",
    )
    add_checkpoints(parser)
    return parser


def add_checkpoints(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoints", type=Path, default=_CHECKPOINTS, help="folder for models that are made"
    )
