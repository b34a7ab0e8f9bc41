"""Numbers over many requests."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmarks.load.client_load import ClientLoad
from benchmarks.load.latency import Distribution, MetricName, distributions
from benchmarks.load.record import RequestRecord
from benchmarks.load.scrape import HitCount, sum_counts
from benchmarks.load.slo import Goodput, Slo, measure_goodput


@dataclass(frozen=True, slots=True)
class Block:
    """Requests that were sent to one server without a break.

    Attributes:
        duration_s: from when the first was due until the last was answered.
    """

    records: Sequence[RequestRecord]
    duration_s: float
    client: ClientLoad
    caches: Mapping[str, HitCount]


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums; media and tokens of answered requests. `errors`: requests by kind of error."""

    requests: int
    answered: int
    errors: Mapping[str, int]
    images: int
    videos: int
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Throughput:
    """Of answered requests, per second."""

    requests: float
    images: float
    videos: float
    prompt_tokens: float
    completion_tokens: float


@dataclass(frozen=True, slots=True)
class Summary:
    """One server under one load.

    Attributes:
        duration_s: sum over the blocks.
        latencies: in seconds; see `benchmarks.load.latency.latencies`.
        caches: by cache, as far as the server's `/metrics` tells; the prefix cache may be told by
            its usage.
        client: the mean of the blocks.
        goodput: for each SLO.
    """

    duration_s: float
    totals: Totals
    throughput: Throughput
    latencies: Mapping[MetricName, Distribution]
    caches: Mapping[str, HitCount]
    client: ClientLoad
    goodput: Sequence[Goodput]


def summarize(blocks: Sequence[Block], slos: Sequence[Slo]) -> Summary:
    records = [record for block in blocks for record in block.records]
    duration_s = sum(block.duration_s for block in blocks)
    totals = _totals(records)
    return Summary(
        duration_s=duration_s,
        totals=totals,
        throughput=_throughput(totals, duration_s),
        latencies=distributions(records),
        caches=_caches(blocks, totals),
        client=_mean([block.client for block in blocks]),
        goodput=[measure_goodput(slo, records, duration_s) for slo in slos],
    )


def _totals(records: Sequence[RequestRecord]) -> Totals:
    answered = [record for record in records if record.is_ok]
    return Totals(
        requests=len(records),
        answered=len(answered),
        errors=Counter(record.error for record in records if record.error is not None),
        images=sum(record.num_images for record in answered),
        videos=sum(record.num_videos for record in answered),
        prompt_tokens=sum(record.prompt_tokens for record in answered),
        completion_tokens=sum(record.completion_tokens for record in answered),
        reasoning_tokens=sum(record.reasoning_tokens for record in answered),
        cached_tokens=sum(record.cached_tokens for record in answered),
    )


def _throughput(totals: Totals, duration_s: float) -> Throughput:
    return Throughput(
        requests=totals.answered / duration_s,
        images=totals.images / duration_s,
        videos=totals.videos / duration_s,
        prompt_tokens=totals.prompt_tokens / duration_s,
        completion_tokens=totals.completion_tokens / duration_s,
    )


def _caches(blocks: Sequence[Block], totals: Totals) -> Mapping[str, HitCount]:
    sums = sum_counts(block.caches for block in blocks)
    if totals.cached_tokens and "prefix" not in sums:
        sums = {"prefix": HitCount(totals.cached_tokens, totals.prompt_tokens), **sums}
    return sums


def _mean(loads: Sequence[ClientLoad]) -> ClientLoad:
    return ClientLoad(
        fmean(load.cpu_share for load in loads),
        fmean(load.lag_p99_s for load in loads),
        fmean(load.send_delay_p99_s for load in loads),
    )
