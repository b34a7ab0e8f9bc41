"""Why the numbers of a run may not be what they seem."""

from collections.abc import Iterator, Sequence

from benchmarks.load.options import BenchOptions
from benchmarks.load.ratio import MIN_BLOCKS
from benchmarks.load.record import RequestRecord
from benchmarks.load.result import Step, Target
from benchmarks.load.summary import Summary

_ENOUGH_FOR_P99 = 100
_MAX_PREFIX_HITS = 0.02
_MAX_TOKEN_DIFFERENCE = 0.01


def find_caveats(
    options: BenchOptions,
    targets: Sequence[Target],
    steps: Sequence[Step],
    records: Sequence[RequestRecord],
) -> Iterator[str]:
    """Sentences, the gravest first."""
    for step in steps:
        for target, summary in zip(targets, step.summaries, strict=True):
            where = f"{step.load.label}, {target.name}"
            yield from _of_client(where, summary)
            yield from _of_errors(where, summary)
        yield from _of_pair(step)
    if any(r.is_ok and r.prompt_tokens == 0 for r in records):
        yield "A server tells no usage: output tokens are chunks, input tokens are not known."
    if options.workload.name == "mlperf" and options.workload.dataset is None:
        yield from _of_prefix_cache(targets, steps)
    if options.profile is not None:
        yield f"Profiled with {options.profile}: latencies and throughput are worse than without."
    fewest = min((s.totals.answered for step in steps for s in step.summaries), default=0)
    if fewest < _ENOUGH_FOR_P99:
        yield f"p99 of {fewest} requests is hardly more than the slowest of them."


def _of_client(where: str, summary: Summary) -> Iterator[str]:
    client = summary.client
    if client.is_limit:
        yield (
            f"{where}: the client itself was too slow or its machine too busy "
            f"({client.cpu_share:.0%} of a core, its event loop late by "
            f"{client.lag_p99_s * 1e3:.1f} ms and requests by "
            f"{client.send_delay_p99_s * 1e3:.1f} ms at p99): these are not the server's numbers."
        )


def _of_errors(where: str, summary: Summary) -> Iterator[str]:
    if summary.totals.errors:
        kinds = ", ".join(f"{number} {kind}" for kind, number in summary.totals.errors.items())
        yield f"{where}: {kinds} of {summary.totals.requests} requests; latencies leave them out."


def _of_pair(step: Step) -> Iterator[str]:
    if len(step.summaries) < 2:
        return
    if step.num_blocks < MIN_BLOCKS:
        yield f"{step.load.label}: {step.num_blocks} blocks are too few for a confidence interval."
    first, second = (summary.totals for summary in step.summaries)
    for what in ("prompt_tokens", "completion_tokens"):
        a, b = getattr(first, what), getattr(second, what)
        if first.answered == second.answered and abs(a - b) > _MAX_TOKEN_DIFFERENCE * max(a, b):
            yield f"{step.load.label}: the servers differ in {what}: {a} and {b}."


def _of_prefix_cache(targets: Sequence[Target], steps: Sequence[Step]) -> Iterator[str]:
    for index, target in enumerate(targets):
        counts = [step.summaries[index].caches.get("prefix") for step in steps]
        if any(count is not None and count.rate > _MAX_PREFIX_HITS for count in counts):
            yield f"{target.name}: its prefix cache is on and was hit, which MLPerf's rules forbid."
