"""Made-up runs of the load test, as large as a test wants them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from benchmarks.load.arrivals import ClosedLoop, Load
from benchmarks.load.client_load import ClientLoad
from benchmarks.load.ratio import compare
from benchmarks.load.record import RequestRecord
from benchmarks.load.result import MemoryUse, Result, Step, Target
from benchmarks.load.scrape import HitCount
from benchmarks.load.slo import parse_slo
from benchmarks.load.summary import Block, summarize
from tests.load_records import record

SLO = "ttft_p99=500ms,tpot_p99=50ms"
_NUM_TOKENS = 20


def make_record(
    *, target: int = 0, step: int = 0, block: int = 0, due_s: float = 0.0, ttft_s: float = 0.1
) -> RequestRecord:
    """An answer of 20 tokens, 12 ms each; those before the sixth are reasoning."""
    gaps_s = (0.012,) * (_NUM_TOKENS - 1)
    last_s = due_s + ttft_s + sum(gaps_s)
    return record(
        target=target,
        step=step,
        block=block,
        scheduled_s=due_s,
        sent_s=due_s,
        first_s=due_s + ttft_s,
        first_answer_s=due_s + ttft_s + 0.06,
        last_s=last_s,
        end_s=last_s + 0.001,
        gaps_s=gaps_s,
        completion_tokens=_NUM_TOKENS,
        reasoning_tokens=5,
    )


def make_failure(record: RequestRecord, message: str = "server says no") -> RequestRecord:
    return replace(
        record,
        first_s=None,
        first_answer_s=None,
        last_s=None,
        gaps_s=(),
        completion_tokens=0,
        status=503,
        error="http_5xx",
        message=message,
    )


def make_run(
    *,
    targets: Sequence[str] = ("server",),
    loads: Sequence[Load] = (ClosedLoop(8),),
    num_requests: int = 20,
    num_blocks: int = 2,
    failures: int = 0,
    message: str = "server says no",
) -> tuple[Result, Sequence[RequestRecord]]:
    """Servers in turn, in blocks; each is half as fast as the one before it.

    Args:
        num_requests: of a server under one load.
        failures: how many of these are errors, with `message`.
    """
    generator = np.random.default_rng(0)
    records: list[RequestRecord] = []
    steps = []
    now_s = 0.0
    for step, load in enumerate(loads):
        blocks: list[list[Block]] = [[] for _ in targets]
        for block in range(num_blocks):
            for target in range(len(targets)):
                made = _block_records(
                    generator, num_requests // num_blocks, target, step, block, now_s
                )
                if block == 0:
                    made[:failures] = [make_failure(r, message) for r in made[:failures]]
                duration_s = max(record.end_s for record in made) - now_s
                blocks[target].append(_block(made, duration_s))
                records += made
                now_s += duration_s
        ratios = compare(blocks[0], blocks[1], seed=0) if len(blocks) == 2 else []
        slos = [parse_slo(SLO)]
        steps.append(Step(load, num_blocks, [summarize(own, slos) for own in blocks], ratios))
    return _result(targets, steps, now_s), records


def _block_records(
    generator: np.random.Generator, count: int, target: int, step: int, block: int, start_s: float
) -> list[RequestRecord]:
    slowness = 2.0**target * (1 + step)
    due_s = start_s + np.cumsum(generator.exponential(0.05, count))
    ttfts_s = 0.05 * slowness * generator.lognormal(0, 0.4, count)
    return [
        make_record(target=target, step=step, block=block, due_s=float(due), ttft_s=float(ttft))
        for due, ttft in zip(due_s, ttfts_s, strict=True)
    ]


def _block(records: Sequence[RequestRecord], duration_s: float) -> Block:
    caches = {"prefix": HitCount(30, 100), "vision, host": HitCount(3, 4)}
    return Block(records, duration_s, ClientLoad(0.31, 0.0012, 0.0007), caches)


def _result(targets: Sequence[str], steps: Sequence[Step], duration_s: float) -> Result:
    return Result(
        started_at="2025-05-04T10:20:30+00:00",
        duration_s=duration_s,
        arguments=["--base-url", "http://127.0.0.1:8000", "--workload", "images", "--seed", "1"],
        client_version="0.6.0",
        machine={"cores": 2, "cpu": "Some CPU"},
        workload="images",
        options={"seed": 1, "max_tokens": 20},
        targets=[
            Target(
                name=name,
                base_url=f"http://127.0.0.1:{8000 + index}",
                model="Qwen/Qwen3-VL-2B",
                version={"version": "0.6.0"},
                command=f"qwen3vl-serve --port {8000 + index}",
                ready_s=12.34,
                memory=MemoryUse(idle_bytes=3 << 30, peak_bytes=5 << 30),
            )
            for index, name in enumerate(targets)
        ],
        steps=steps,
        highest=[],
        warnings=[],
        profiles=[],
    )
