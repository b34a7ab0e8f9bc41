"""What the command line of `qwen3vl-serve bench` says."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.load.arrivals import Load
from benchmarks.load.client import RequestOptions
from benchmarks.load.slo import Slo
from benchmarks.workload.options import WorkloadOptions

ProfileTool = Literal["torch", "py-spy"]


@dataclass(frozen=True, slots=True)
class TargetOptions:
    """A server: one that runs, or the command that starts one (`{port}` becomes a free port)."""

    name: str
    base_url: str | None
    command: str | None
    model: str | None


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """Attributes:
    targets: one, or two that are compared.
    loads: measured one after the other, each with a number of requests.
    ramp_from: requests/s from which the highest rate that keeps `slos[0]` is searched, with
        `ramp_requests` at each rate.
    burstiness: of the ramp; see `OpenLoop`.
    num_blocks: in which two servers are asked in turn, for each load.
    num_warmups: requests before everything else that are not measured, of each server.
    ready_timeout_s: for servers that are started.
    """

    targets: Sequence[TargetOptions]
    workload: WorkloadOptions
    loads: Sequence[tuple[Load, int]]
    ramp_from: float | None
    ramp_requests: int
    burstiness: float
    slos: Sequence[Slo]
    num_warmups: int
    num_blocks: int
    request: RequestOptions
    profile: ProfileTool | None
    output_dir: Path
    ready_timeout_s: float
