"""A run says by itself what its numbers are not."""

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.load.arguments import parse_arguments
from benchmarks.load.arrivals import ClosedLoop
from benchmarks.load.caveats import find_caveats
from benchmarks.load.client_load import ClientLoad
from benchmarks.load.record import RequestRecord
from benchmarks.load.result import Step, Target
from benchmarks.load.scrape import HitCount
from benchmarks.load.summary import Block, summarize
from tests.load_records import IDLE_CLIENT, block, failed, record

TARGETS = [Target("server", "http://a", "m"), Target("vs", "http://b", "m")]
MANY = [record() for _ in range(200)]


def step(*blocks: Block, num_blocks: int = 8) -> Step:
    summaries = [summarize([own], ()) for own in blocks]
    return Step(ClosedLoop(8), num_blocks, summaries, ratios=())


def caveats(measured: Step, records: list[RequestRecord] = MANY, *flags: str) -> list[str]:
    options: Any = parse_arguments(flags).options
    targets = TARGETS[: len(measured.summaries)]
    return list(find_caveats(options, targets, [measured], records))


def test_a_good_run_has_none() -> None:
    assert caveats(step(block(MANY), block(MANY))) == []


@pytest.mark.parametrize(
    "load", [ClientLoad(0.9, 0.0, 0.0), ClientLoad(0.1, 0.006, 0.0), ClientLoad(0.1, 0.0, 0.02)]
)
def test_a_client_that_was_the_limit_is_named(load: ClientLoad) -> None:
    (caveat,) = caveats(step(replace(block(MANY), client=load)))
    assert "8 at once, server: the client itself was too slow" in caveat
    assert not IDLE_CLIENT.is_limit


def test_failed_requests_are_named_by_kind() -> None:
    (caveat,) = caveats(step(block([*MANY, failed(), failed()])))
    assert "2 http_5xx of 202 requests" in caveat


def test_servers_that_count_other_tokens_are_not_alike() -> None:
    longer = [replace(one, prompt_tokens=120) for one in MANY]
    (caveat,) = caveats(step(block(MANY), block(longer)))
    assert "differ in prompt_tokens: 20000 and 24000" in caveat


def test_few_requests_and_few_blocks_are_little_evidence() -> None:
    few = MANY[:30]
    found = caveats(step(block(few), block(few), num_blocks=2), few)
    assert any("2 blocks are too few" in caveat for caveat in found)
    assert any("p99 of 30 requests" in caveat for caveat in found)


def test_a_server_without_usage_counts_chunks() -> None:
    silent = [replace(one, prompt_tokens=0) for one in MANY]
    (caveat,) = caveats(step(block(silent)), silent)
    assert "tells no usage" in caveat


def test_mlperf_forbids_the_prefix_cache() -> None:
    hits = replace(block(MANY), caches={"prefix": HitCount(50, 100)})
    assert "prefix cache is on" in "".join(caveats(step(hits), MANY, "--workload", "mlperf"))
    assert caveats(step(hits), MANY, "--workload", "chat") == []
    template = replace(block(MANY), caches={"prefix": HitCount(1, 100)})
    assert caveats(step(template), MANY, "--workload", "mlperf") == []


def test_a_profile_slows_the_server_down() -> None:
    assert "Profiled with py-spy" in "".join(
        caveats(step(block(MANY)), MANY, "--profile", "py-spy")
    )
