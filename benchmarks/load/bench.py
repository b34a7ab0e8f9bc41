"""A whole run: servers, warm-up, loads one after the other, and what came of it."""

import asyncio
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp

from benchmarks.load.arrivals import ClosedLoop, Load, OpenLoop
from benchmarks.load.bench_error import BenchError
from benchmarks.load.block import BlockPlace, BlockRunner
from benchmarks.load.client import LoadClient
from benchmarks.load.client_load import MAX_CPU_SHARE
from benchmarks.load.monitor import Monitor
from benchmarks.load.options import BenchOptions
from benchmarks.load.ramp import Ramp
from benchmarks.load.ratio import compare
from benchmarks.load.result import Highest, Step
from benchmarks.load.server_profile import Traces
from benchmarks.load.source import ConversationSource, Numbered
from benchmarks.load.summary import Block, summarize
from benchmarks.load.target import LiveTarget
from benchmarks.servers import SETTLE_S

_WARMUP_STEP = -1  # of records that do not count
_WARMUP_CONCURRENCY = 4
_ROUNDS_OF_A_BLOCK = 2
_OPEN_BLOCK_S = 5
_RAMP_STEP_S = 10  # at least: a queue needs time to show


@dataclass(slots=True)
class Findings:
    """What a run has found so far: it may be interrupted."""

    steps: list[Step] = field(default_factory=list)
    highest: list[Highest] = field(default_factory=list)
    traces: Traces = field(default_factory=Traces)


class Bench:
    """The loads of a run, asked of every server.

    Args:
        session: for the requests.
        source: has the conversations.
        monitor: is told what happens.
        findings: is filled.
    """

    def __init__(
        self,
        options: BenchOptions,
        targets: Sequence[LiveTarget],
        session: aiohttp.ClientSession,
        source: ConversationSource,
        monitor: Monitor,
        findings: Findings,
    ) -> None:
        self._options = options
        self._targets = targets
        start_s = time.perf_counter()
        self._clients = [
            LoadClient(session, t.info.base_url, t.info.model, options.request, start_s)
            for t in targets
        ]
        self._source = source
        self._monitor = monitor
        self._order = random.Random(options.workload.seed)
        self._findings = findings

    async def warm_up(self) -> None:
        """Raises: BenchError if a server answers none of the requests."""
        num_requests = self._options.num_warmups
        if num_requests == 0:
            return
        conversations = await self._draw(num_requests)
        for target, live in enumerate(self._targets):
            self._monitor.begin(f"warm-up of {live.info.name}", num_requests)
            load = ClosedLoop(min(_WARMUP_CONCURRENCY, num_requests))
            place = BlockPlace(target, _WARMUP_STEP, 0)
            block = await self._run_block(place, load, conversations)
            if not any(record.is_ok for record in block.records):
                first = block.records[0]
                raise BenchError(
                    f"{live.info.base_url} answers none of the warm-up requests: "
                    f"{first.error}: {first.message}"
                )

    async def run(self) -> None:
        """All loads, and the ramp if one is wanted."""
        for load, num_requests in self._options.loads:
            await self._run_step(load, num_requests)
        if self._options.ramp_from is not None:
            await self._run_ramp(self._options.ramp_from)

    async def _run_ramp(self, first_rate: float) -> None:
        ramp = Ramp(first_rate, len(self._targets))
        while (rate := ramp.next_rate()) is not None:
            load = OpenLoop(rate, self._options.burstiness)
            num_requests = max(self._options.ramp_requests, math.ceil(rate * _RAMP_STEP_S))
            step = await self._run_step(load, num_requests, num_blocks=1)
            ramp.add(rate, [summary.goodput[0].is_held for summary in step.summaries])
            if any(summary.client.cpu_share > MAX_CPU_SHARE for summary in step.summaries):
                break  # there is a caveat for it
        slo = self._options.slos[0].text
        self._findings.highest += [Highest(i, slo, rate) for i, rate in enumerate(ramp.highest)]

    async def _run_step(self, load: Load, num_requests: int, num_blocks: int | None = None) -> Step:
        """Every server gets the same requests, in blocks; they take turns in being first."""
        conversations = await self._draw(num_requests)
        targets = list(range(len(self._targets)))
        self._order.shuffle(targets)
        num_blocks = min(num_blocks or self._num_blocks(load, num_requests), len(conversations))
        blocks: list[list[Block]] = [[] for _ in targets]
        self._monitor.begin(load.label, num_requests * len(targets))
        for index in range(num_blocks):
            targets.reverse()
            for target in targets:
                if len(targets) > 1:
                    await asyncio.sleep(SETTLE_S)
                place = BlockPlace(target, len(self._findings.steps), index)
                part = conversations[index::num_blocks]
                blocks[target].append(await self._run_block(place, load, part))
        seed = self._options.workload.seed
        step = Step(
            load=load,
            num_blocks=num_blocks,
            summaries=[summarize(own, self._options.slos) for own in blocks],
            ratios=compare(blocks[0], blocks[1], seed) if len(blocks) == 2 else (),
        )
        self._findings.steps.append(step)
        self._monitor.end(step)
        return step

    def _num_blocks(self, load: Load, num_requests: int) -> int:
        """Each is long enough to be under the load that was asked for, most of the time."""
        if len(self._targets) == 1:
            return 1
        if isinstance(load, ClosedLoop):
            least = _ROUNDS_OF_A_BLOCK * load.concurrency
        else:
            least = math.ceil(load.request_rate * _OPEN_BLOCK_S)
        return max(1, min(self._options.num_blocks, num_requests // least))

    async def _run_block(
        self, place: BlockPlace, load: Load, conversations: Sequence[Numbered]
    ) -> Block:
        # The same arrivals for both servers.
        seed = (self._options.workload.seed, place.step + 1, place.block)
        runner = BlockRunner(self._clients[place.target], place, seed, self._monitor)
        return await runner.run(load, conversations)

    async def _draw(self, num_requests: int) -> Sequence[Numbered]:
        self._monitor.begin("drawing requests", num_requests)
        return await asyncio.to_thread(self._source.take, num_requests, self._monitor.drawn)
