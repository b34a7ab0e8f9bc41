"""The document that a run leaves behind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import TypeAdapter, ValidationError

from benchmarks.load.arrivals import Load
from benchmarks.load.ratio import Ratio
from benchmarks.load.summary import Summary


class ResultError(ValueError):
    """A file is not such a document."""


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Of a server's processes, in bytes (PSS: shared pages count once): ready, and at most."""

    idle_bytes: int
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Target:
    """A server that was asked.

    Attributes:
        name: `server`, or `vs` for the one it is compared with.
        version: what its `/version` says.
        command, ready_s, memory: of a server that was started for the run; seconds to ready.
    """

    name: str
    base_url: str
    model: str
    version: Mapping[str, Any] | None = None
    command: str | None = None
    ready_s: float | None = None
    memory: MemoryUse | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One load. `summaries` are in the order of the targets; `ratios` are of two of them."""

    load: Load
    num_blocks: int
    summaries: Sequence[Summary]
    ratios: Sequence[Ratio]


@dataclass(frozen=True, slots=True)
class Highest:
    """The highest rate found that keeps an SLO, in requests/s; None if not even the lowest did."""

    target: int
    slo: str
    request_rate: float | None


@dataclass(frozen=True, slots=True)
class Result:
    """Attributes:
    started_at: ISO 8601, UTC.
    arguments: the command line, without secrets.
    machine: of the client.
    options: of the workload.
    warnings: why numbers may not be what they seem.
    profiles: files, as the server names them.
    """

    started_at: str
    duration_s: float
    arguments: Sequence[str]
    client_version: str
    machine: Mapping[str, Any]
    workload: str
    options: Mapping[str, Any]
    targets: Sequence[Target]
    steps: Sequence[Step]
    highest: Sequence[Highest]
    warnings: Sequence[str]
    profiles: Sequence[str]
    format: Literal["qwen3vl-serve bench 1"] = "qwen3vl-serve bench 1"


_ADAPTER = TypeAdapter(Result)


def encode_result(result: Result) -> bytes:
    """JSON on one line."""
    return orjson.dumps(result)


def read_result(path: Path) -> Result:
    """Raises: ResultError if the file cannot be read or is something else."""
    try:
        return _ADAPTER.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ResultError(f"{path}: {error}") from error
