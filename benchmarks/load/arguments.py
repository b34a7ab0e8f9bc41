"""The command line of `qwen3vl-serve bench`."""

import argparse
import json
import math
import secrets
import shlex
from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, get_args
from urllib.parse import urlsplit

from benchmarks.load.arrivals import ClosedLoop, Load, OpenLoop
from benchmarks.load.client import RequestOptions
from benchmarks.load.options import BenchOptions, ProfileTool, TargetOptions
from benchmarks.load.slo import Slo, parse_slo
from benchmarks.workload.image_sizes import ImageSizes
from benchmarks.workload.int_range import IntRange
from benchmarks.workload.options import WorkloadName, WorkloadOptions

T = TypeVar("T")
Number = TypeVar("Number", int, float)

_DEFAULT_URL = "http://127.0.0.1:8000"
_DEFAULT_CONCURRENCY = 8
_DEFAULT_RATE = 1.0
_DEFAULT_REQUESTS = 100
_NUM_SEEDS = 10**6
# MLPerf Inference's limits for its server and its interactive scenario
_MLPERF_SLOS = ("e2e_p99=12s", "e2e_p99=1.5s")
_DESCRIPTION = """\
Load test of a server with OpenAI's chat completions, or of two side by side. Closed loop: so many
requests at once (--concurrency). Open loop: so many a second whether or not the server keeps up
(--request-rate); latencies count from when a request was due. OPENAI_API_KEY has the key.
The last line on stdout is one JSON document."""


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Ends the process with status 2 if they cannot be read."""
    parser = argparse.ArgumentParser("qwen3vl-serve bench", description=_DESCRIPTION)
    _add_targets(parser)
    _add_loads(parser)
    _add_workload(parser)
    _add_requests(parser)
    _add_output(parser)
    arguments = parser.parse_args(argv)
    try:
        arguments.options = None if arguments.compare else _options(arguments)
    except ValueError as error:
        parser.error(str(error))
    return arguments


def _add_targets(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("servers")
    one = group.add_mutually_exclusive_group()
    one.add_argument("--base-url", metavar="URL", help=f"default: {_DEFAULT_URL}")
    one.add_argument(
        "--command",
        type=_checked(_command),
        help="start this server; {port} in it becomes a free port; no shell",
    )
    other = group.add_mutually_exclusive_group()
    other.add_argument("--vs", metavar="URL", help="compare with this server, in turn")
    other.add_argument(
        "--vs-command",
        type=_checked(_command),
        metavar="COMMAND",
        help="compare with this one, started",
    )
    group.add_argument("--model", help="default: the first that the server lists")
    group.add_argument("--vs-model", metavar="MODEL", help="of the server compared with")
    group.add_argument("--ready-timeout-s", type=_positive(float), default=1800.0)


def _add_loads(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("load (lists are measured one after the other)")
    group.add_argument(
        "--num-requests",
        type=_listed(_positive(int)),
        default=(_DEFAULT_REQUESTS,),
        help="for each load; a list has one for each of the loads",
    )
    group.add_argument("--num-warmups", type=_natural, default=4, help="requests not measured")
    loop = group.add_mutually_exclusive_group()
    loop.add_argument(
        "--concurrency",
        type=_listed(_positive(int)),
        help=f"requests at once, e.g. 1,8,32; default: {_DEFAULT_CONCURRENCY}",
    )
    loop.add_argument(
        "--request-rate", type=_listed(_positive(float)), help="requests/s, e.g. 1,2,4"
    )
    group.add_argument(
        "--burstiness",
        type=_positive(float),
        default=1.0,
        help="shape of the gamma distribution of gaps: 1 is Poisson, less comes in bursts",
    )
    group.add_argument(
        "--ramp",
        action="store_true",
        help="search the highest rate that keeps the first --slo, from --request-rate on (1)",
    )
    group.add_argument(
        "--slo",
        type=_checked(parse_slo),
        action="append",
        default=[],
        help="e.g. ttft_p99=500ms,tpot_p99=50ms; metrics ttft, ttfa, itl, tpot, e2e",
    )
    group.add_argument(
        "--num-blocks",
        type=_positive(int),
        default=8,
        help="in which two servers are asked in turn, for each load",
    )


def _add_workload(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("workload")
    group.add_argument("--workload", choices=get_args(WorkloadName), default="chat")
    group.add_argument(
        "--seed",
        type=_natural,
        default=secrets.randbelow(_NUM_SEEDS),
        help="default: drawn, so that no cache has the media of an earlier run",
    )
    group.add_argument(
        "--input-tokens",
        type=_checked(IntRange.parse),
        metavar="N|LOW-HIGH",
        help="of a question's text, about",
    )
    group.add_argument(
        "--output-tokens", type=_checked(IntRange.parse), metavar="N|LOW-HIGH", help="of an answer"
    )
    group.add_argument("--image-sizes", type=_checked(ImageSizes.parse), metavar="WxH[:WEIGHT],...")
    group.add_argument("--images-per-request", type=int, help="of `images`")
    group.add_argument("--reuse", type=float, help="of `reuse`: share of repeated images")
    group.add_argument("--turns", type=int, help="of `agent`: of a conversation")
    group.add_argument("--pages", type=int, help="of `documents`")
    group.add_argument("--questions", type=int, help="of `documents`: about each")
    group.add_argument("--video-seconds", type=float, help="of a drawn clip")
    group.add_argument("--window-seconds", type=float, help="of `windows`")
    group.add_argument("--stride-seconds", type=float, help="of `windows`")
    group.add_argument(
        "--media-dir", type=Path, help="images and videos to use instead of drawn ones"
    )
    group.add_argument(
        "--dataset",
        type=Path,
        help="JSON lines, ShareGPT's or OpenAI's form, instead of a workload",
    )


def _add_requests(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("requests")
    group.add_argument("--thinking", choices=("on", "off"), help="default: as the server does")
    group.add_argument("--temperature", type=float, default=0.0)
    group.add_argument(
        "--no-ignore-eos",
        dest="ignore_eos",
        action="store_false",
        help="let answers end by themselves; for servers that do not know `ignore_eos`",
    )
    group.add_argument("--extra-body", type=_json_object, default={}, metavar="JSON")
    group.add_argument("--timeout-s", type=_positive(float), default=600.0, help="of a request")


def _add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument(
        "--output-dir",
        type=Path,
        help="for result.json, requests.jsonl, report.html; default: bench-results/TIME-WORKLOAD",
    )
    group.add_argument("--profile", choices=get_args(ProfileTool), help="have the server traced")
    group.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("A.json", "B.json"),
        help="compare two results, and measure nothing",
    )


def _options(arguments: argparse.Namespace) -> BenchOptions:
    """Raises: ValueError."""
    workload = _workload(arguments)
    is_mlperf = arguments.workload == "mlperf" and arguments.dataset is None
    slos: list[Slo] = arguments.slo or (list(map(parse_slo, _MLPERF_SLOS)) if is_mlperf else [])
    if is_mlperf and arguments.concurrency:
        raise ValueError("mlperf has Poisson arrivals: --request-rate instead of --concurrency")
    if arguments.ramp and not slos:
        raise ValueError("--ramp needs an --slo")
    if arguments.ramp and arguments.concurrency:
        raise ValueError("--ramp searches a rate: --concurrency has no meaning with it")
    if arguments.ramp and max(map(len, (arguments.num_requests, arguments.request_rate or ()))) > 1:
        raise ValueError("--ramp begins with one --request-rate, and one --num-requests")
    first_rate = (arguments.request_rate or (_DEFAULT_RATE,))[0]
    return BenchOptions(
        targets=_targets(arguments),
        workload=workload,
        loads=() if arguments.ramp else _loads(arguments, is_open=is_mlperf),
        ramp_from=first_rate if arguments.ramp else None,
        ramp_requests=arguments.num_requests[0],
        burstiness=arguments.burstiness,
        slos=slos,
        num_warmups=arguments.num_warmups,
        num_blocks=arguments.num_blocks,
        request=RequestOptions(
            thinking=None if arguments.thinking is None else arguments.thinking == "on",
            ignore_eos=arguments.ignore_eos,
            temperature=arguments.temperature,
            timeout_s=arguments.timeout_s,
            extra_body=arguments.extra_body,
        ),
        profile=arguments.profile,
        output_dir=arguments.output_dir or _default_folder(arguments),
        ready_timeout_s=arguments.ready_timeout_s,
    )


def _workload(arguments: argparse.Namespace) -> WorkloadOptions:
    """Flags that were not given keep the workload's own defaults."""
    given = {field.name: getattr(arguments, field.name, None) for field in fields(WorkloadOptions)}
    given["name"] = arguments.workload
    return WorkloadOptions(**{name: value for name, value in given.items() if value is not None})


def _targets(arguments: argparse.Namespace) -> Sequence[TargetOptions]:
    url = None if arguments.command else _base_url(arguments.base_url or _DEFAULT_URL)
    targets = [TargetOptions("server", url, arguments.command, arguments.model)]
    if arguments.vs or arguments.vs_command:
        vs_url = _base_url(arguments.vs) if arguments.vs else None
        if vs_url is not None and vs_url == url:
            raise ValueError(f"--vs is the server itself: {vs_url}")
        model = arguments.vs_model or arguments.model
        targets.append(TargetOptions("vs", vs_url, arguments.vs_command, model))
    return targets


def _base_url(text: str) -> str:
    """With or without the `/v1` that OpenAI's clients want."""
    url = urlsplit(text)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError(f"{text!r} is not an http or https URL")
    if url.username or url.password:
        raise ValueError("a URL with a password would stand in the result: use OPENAI_API_KEY")
    return text.rstrip("/").removesuffix("/v1")


def _command(text: str) -> str:
    """Raises: ValueError for one that cannot be split, or that does not say where its port goes."""
    shlex.split(text)
    if "{port}" not in text:
        raise argparse.ArgumentTypeError("`{port}` has to stand where the server's port goes")
    return text


def _loads(arguments: argparse.Namespace, *, is_open: bool) -> Sequence[tuple[Load, int]]:
    loads: list[Load]
    if arguments.request_rate or is_open:
        rates = arguments.request_rate or (_DEFAULT_RATE,)
        loads = [OpenLoop(rate, arguments.burstiness) for rate in rates]
    else:
        loads = [ClosedLoop(n) for n in arguments.concurrency or (_DEFAULT_CONCURRENCY,)]
    numbers = arguments.num_requests
    if len(numbers) == 1:
        numbers = numbers * len(loads)
    if len(numbers) != len(loads):
        raise ValueError(f"--num-requests has {len(numbers)} numbers for {len(loads)} loads")
    return list(zip(loads, numbers, strict=True))


def _default_folder(arguments: argparse.Namespace) -> Path:
    name = arguments.dataset.stem if arguments.dataset else arguments.workload
    return Path("bench-results") / f"{datetime.now():%Y%m%d-%H%M%S}-{name}"


def _checked(parse: Callable[[str], T]) -> Callable[[str], T]:
    """`parse` with its own error message, which argparse would replace by its own."""

    def parsed(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parsed


def _listed(parse: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    return lambda text: tuple(parse(part) for part in text.split(","))


def _positive(kind: Callable[[str], Number]) -> Callable[[str], Number]:
    def parsed(text: str) -> Number:
        value = kind(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    return parsed


def _natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def _json_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("not a JSON object")
    return value
