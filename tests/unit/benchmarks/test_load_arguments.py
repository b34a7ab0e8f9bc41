"""The command line of the load test."""

from pathlib import Path

import pytest

from benchmarks.load.arguments import parse_arguments
from benchmarks.load.arrivals import ClosedLoop, OpenLoop
from benchmarks.load.options import BenchOptions
from benchmarks.workload.image_sizes import ImageSizes
from benchmarks.workload.int_range import IntRange


def options(*flags: str) -> BenchOptions:
    parsed = parse_arguments(flags).options
    assert isinstance(parsed, BenchOptions)
    return parsed


def test_without_flags_it_chats_with_a_server_here() -> None:
    given = options()
    (target,) = given.targets
    assert (target.base_url, target.command) == ("http://127.0.0.1:8000", None)
    assert given.workload.name == "chat"
    assert list(given.loads) == [(ClosedLoop(8), 100)]
    assert given.output_dir.parent == Path("bench-results")


def test_lists_are_several_loads() -> None:
    assert list(options("--concurrency", "1,8", "--num-requests", "24,192").loads) == [
        (ClosedLoop(1), 24),
        (ClosedLoop(8), 192),
    ]
    given = options("--request-rate", "0.5,2", "--burstiness", "0.3", "--num-requests", "50")
    assert list(given.loads) == [(OpenLoop(0.5, 0.3), 50), (OpenLoop(2.0, 0.3), 50)]


def test_a_ramp_starts_at_the_request_rate_and_needs_an_slo() -> None:
    given = options("--ramp", "--slo", "ttft_p99=1s", "--request-rate", "4", "--num-requests", "30")
    assert (given.ramp_from, given.ramp_requests, list(given.loads)) == (4.0, 30, [])


def test_mlperf_has_poisson_arrivals_and_its_own_limits() -> None:
    given = options("--workload", "mlperf")
    assert list(given.loads) == [(OpenLoop(1.0, 1.0), 100)]
    assert [slo.text for slo in given.slos] == ["e2e_p99=12s", "e2e_p99=1.5s"]
    assert [slo.text for slo in options("--workload", "mlperf", "--slo", "itl_p50=1s").slos] == [
        "itl_p50=1s"
    ]


def test_every_flag_of_a_workload_arrives() -> None:
    workload = options(
        *("--workload", "images", "--seed", "7", "--input-tokens", "10-20"),
        *("--output-tokens", "5", "--image-sizes", "64x64:2,128x64", "--images-per-request", "3"),
        *("--reuse", "0.25", "--turns", "2", "--pages", "4", "--questions", "5"),
        *("--video-seconds", "6", "--window-seconds", "3", "--stride-seconds", "1.5"),
    ).workload
    assert (workload.name, workload.seed, workload.images_per_request) == ("images", 7, 3)
    assert (workload.input_tokens, workload.output_tokens) == (IntRange(10, 20), IntRange(5, 5))
    assert workload.image_sizes == ImageSizes(((64, 64), (128, 64)), (2.0, 1.0))
    assert (workload.reuse, workload.turns, workload.pages, workload.questions) == (0.25, 2, 4, 5)
    assert (workload.video_seconds, workload.window_seconds) == (6.0, 3.0)
    assert workload.stride_seconds == 1.5


def test_two_servers_are_told_apart() -> None:
    given = options(
        *("--command", "serve --port {port}", "--model", "a", "--vs", "http://b:9/v1/"),
        *("--vs-model", "b"),
    )
    first, second = given.targets
    assert (first.name, first.base_url, first.model) == ("server", None, "a")
    assert (second.name, second.base_url, second.model) == ("vs", "http://b:9", "b")


def test_options_of_requests() -> None:
    request = options(
        "--thinking", "off", "--no-ignore-eos", "--extra-body", '{"top_p": 0.5}'
    ).request
    assert (request.thinking, request.ignore_eos, request.extra_body) == (
        False,
        False,
        {"top_p": 0.5},
    )
    assert options().request.thinking is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ramp"], "--ramp needs an --slo"),
        (["--ramp", "--slo", "ttft_p50=1s", "--request-rate", "1,2"], "one --request-rate"),
        (["--slo", "ttft_p50=1s,ttft_p50=2s"], "two limits"),
        (["--command", "serve --port 8000"], "`{port}`"),
        (["--command", "serve 'x {port}"], "quotation"),
        (["--base-url", "http://user:word@host"], "OPENAI_API_KEY"),
        (["--base-url", "http://[::1"], "IPv6"),
        (["--video-seconds", "nan"], "nan s is not"),
        (["--ramp", "--slo", "ttft_p50=1s", "--concurrency", "2"], "--concurrency has no meaning"),
        (["--slo", "ttft=1s"], "METRIC_STAT=TIME"),
        (["--workload", "mlperf", "--concurrency", "2"], "Poisson"),
        (["--concurrency", "1,2", "--num-requests", "1,2,3"], "3 numbers for 2 loads"),
        (["--concurrency", "0"], "not above 0"),
        (["--request-rate", "nan"], "not above 0"),
        (["--concurrency", "1", "--request-rate", "1"], "not allowed with"),
        (["--base-url", "localhost:8000"], "not an http or https URL"),
        (["--vs", "http://127.0.0.1:8000/v1"], "--vs is the server itself"),
        (["--extra-body", "[1]"], "not a JSON object"),
        (["--input-tokens", "9-3"], "9-3"),
        (["--image-sizes", "640"], "640x480"),
        (["--reuse", "1.5"], "1.5 is not a share"),
        (["--workload", "poetry"], "invalid choice"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_arguments(flags)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
