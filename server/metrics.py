"""What the server counts of requests and media; vLLM's metrics stand beside."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from time import perf_counter
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from starlette.requests import ClientDisconnect

from server import metric_specs as specs
from server.encode_request import ENCODE_PATH
from server.errors import code_of, status_of
from server.request_log import CLIENT_CLOSED_REQUEST, add_fields
from server.settings import are_metrics_shared
from server.trace import current_trace

ENDPOINTS = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/tokenize",
        "/detokenize",
        ENCODE_PATH,
    }
)


class RequestRecord:
    """One request on its way. It ends as exactly one of rejected, done, error and aborted."""

    def __init__(self, metrics: "Metrics", endpoint: str) -> None:
        self._metrics = metrics
        self._endpoint = endpoint
        self._started_s = perf_counter()
        self._first_output_s: float | None = None  # since the start
        self._num_completion_tokens = 0
        self.is_accepted = False
        self.outcome = "done"
        self.status = 200
        self.code: str | None = None

    @property
    def elapsed_s(self) -> float:
        return perf_counter() - self._started_s

    def accept(self) -> None:
        self.is_accepted = True
        self._metrics.in_flight.inc()

    def observe_first_output(self) -> None:
        self._first_output_s = self.elapsed_s
        self._metrics.time_to_first_token_s.observe(self._first_output_s)
        current_trace().observe_first_output(self._first_output_s)

    def count_tokens(self, num_completion_tokens: int, num_reasoning_tokens: int) -> None:
        """Of the whole answer, as far as it came. Reasoning is part of the completion."""
        self._num_completion_tokens = num_completion_tokens
        self._metrics.completion_tokens.inc(num_completion_tokens)
        self._metrics.reasoning_tokens.inc(num_reasoning_tokens)

    def fail(self, status: int, code: str) -> None:
        """The client's fault is a rejection, however late; a stream cut half-way an error 200."""
        is_refused = not self.is_accepted or 400 <= status < 500
        self.outcome = "rejected" if is_refused else "error"
        self.status = status
        self.code = code

    def abort(self) -> None:
        self.outcome = "aborted"
        self.status = CLIENT_CLOSED_REQUEST

    def close(self) -> None:
        metrics = self._metrics
        add_fields(outcome=self.outcome)
        current_trace().observe_end(self.outcome, self.status, self.code)
        metrics.requests.labels(self._endpoint, self.outcome, str(self.status)).inc()
        if self.code is not None:
            metrics.errors.labels(self.code).inc()
        if self.is_accepted:
            metrics.in_flight.dec()
        if self.outcome == "done":
            self._observe_done()

    def _observe_done(self) -> None:
        elapsed_s, num_tokens = self.elapsed_s, self._num_completion_tokens
        self._metrics.request_s.observe(elapsed_s)
        if self._first_output_s is None:
            return  # nothing was generated: an encoder process
        self._metrics.request_completion_tokens.observe(num_tokens)
        if num_tokens > 1:
            rest_s = elapsed_s - self._first_output_s
            self._metrics.time_per_output_token_s.observe(rest_s / (num_tokens - 1))


class Metrics:
    """The metrics of one registry; see `metrics_of`.

    If several processes serve, their counts lie in a folder, and each shows the sums.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._collectors: list[Collector] = []
        self.requests = specs.REQUESTS.counter(registry)
        self.errors = specs.ERRORS.counter(registry)
        self.in_flight = specs.IN_FLIGHT.gauge(registry)
        self.time_to_first_token_s = specs.TIME_TO_FIRST_TOKEN.histogram(registry)
        self.time_per_output_token_s = specs.TIME_PER_OUTPUT_TOKEN.histogram(registry)
        self.request_s = specs.REQUEST.histogram(registry)
        self.media_fetch_s = specs.MEDIA_FETCH.histogram(registry)
        self.media_load_s = specs.MEDIA_LOAD.histogram(registry)
        self.prompt_tokens = specs.PROMPT_TOKENS.counter(registry)
        self.completion_tokens = specs.COMPLETION_TOKENS.counter(registry)
        self.reasoning_tokens = specs.REASONING_TOKENS.counter(registry)
        self.request_prompt_tokens = specs.REQUEST_PROMPT_TOKENS.histogram(registry)
        self.request_completion_tokens = specs.REQUEST_COMPLETION_TOKENS.histogram(registry)
        self.media_items = specs.MEDIA_ITEMS.counter(registry)
        self._media_stage_s = specs.MEDIA_STAGE.histogram(registry)
        self.visual_items = specs.VISUAL_ITEMS.counter(registry)
        self._encoder_items = specs.ENCODER_ITEMS.counter(registry)
        self._encoder_batches = specs.ENCODER_BATCHES.counter(registry)
        self.media_bytes = specs.MEDIA_BYTES.counter(registry)
        self._frontend_cpu_s = specs.FRONTEND_CPU.counter(registry)
        self._counted_cpu_s = 0.0

    def add(self, collector: Collector) -> None:
        """Show metrics that are the same in all processes."""
        self._collectors.append(collector)

    def render(self) -> bytes:
        """In Prometheus' text format."""
        self.count_cpu()
        shown = CollectorRegistry()
        if are_metrics_shared():
            collect: Any = MultiProcessCollector
            collect(shown)
            sources = [shown, *self._collectors]
        else:
            sources = [self.registry, *self._collectors]
        return b"".join(map(generate_latest, sources))

    def count_cpu(self) -> None:
        """What this process has used since the last call; to be called once in a while."""
        used_s = time.process_time()
        self._frontend_cpu_s.inc(used_s - self._counted_cpu_s)
        self._counted_cpu_s = used_s

    def count_rejection(self, path: str, error: Exception) -> None:
        """A request for an answer that has not come as far as its endpoint."""
        self.requests.labels(_endpoint_of(path), "rejected", str(status_of(error))).inc()
        self.errors.labels(code_of(error)).inc()

    def observe_media_stage(self, stage: str, seconds: float) -> None:
        self._media_stage_s.labels(stage).observe(seconds)

    def observe_encoded_batch(self, modality: str, num_items: int) -> None:
        self._encoder_items.labels(modality).inc(num_items)
        self._encoder_batches.inc()

    @contextmanager
    def track_request(self, path: str) -> Iterator[RequestRecord]:
        record = RequestRecord(self, _endpoint_of(path))
        try:
            yield record
        except (asyncio.CancelledError, ClientDisconnect):
            record.abort()
            raise
        except Exception as error:
            record.fail(status_of(error), code_of(error))
            raise
        finally:
            record.close()


def _endpoint_of(path: str) -> str:
    """A client may ask for any path."""
    return path if path in ENDPOINTS else "other"


@cache
def metrics_of(registry: CollectorRegistry = REGISTRY) -> Metrics:
    """The one `Metrics` object of a registry: names can be registered only once."""
    return Metrics(registry)
