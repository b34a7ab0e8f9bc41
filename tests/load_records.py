"""Records and summaries of load tests, made by hand."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.load.client_load import ClientLoad
from benchmarks.load.record import RequestRecord
from benchmarks.load.summary import Block

IDLE_CLIENT = ClientLoad(cpu_share=0.1, lag_p99_s=0.001, send_delay_p99_s=0.0)
_RECORD = RequestRecord(
    target=0,
    step=0,
    block=0,
    conversation=0,
    turn=0,
    num_images=1,
    num_videos=0,
    num_bytes=1000,
    scheduled_s=1.0,
    sent_s=1.0,
    first_s=1.1,
    first_answer_s=1.2,
    last_s=1.5,
    end_s=1.6,
    gaps_s=(0.1, 0.1, 0.1, 0.1),
    prompt_tokens=100,
    completion_tokens=5,
    reasoning_tokens=1,
    cached_tokens=10,
    status=200,
    error=None,
    message=None,
)


def record(**changes: Any) -> RequestRecord:
    """An answered request: first token after 0.1 s, five tokens, all of it in 0.6 s."""
    return replace(_RECORD, **changes)


def failed(**changes: Any) -> RequestRecord:
    return record(status=503, error="http_5xx", message="full", first_s=None, **changes)


def block(records: Sequence[RequestRecord], duration_s: float = 1.0) -> Block:
    return Block(records, duration_s, IDLE_CLIENT, {})
