"""What the server counts, under Prometheus' naming conventions; vLLM's metrics stand beside."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from time import perf_counter
from typing import Any

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from starlette.requests import ClientDisconnect

from server.errors import status_of
from server.request_log import CLIENT_CLOSED_REQUEST, add_fields
from server.settings import are_metrics_shared

# from a small model on a short prompt to hours of video on a large one
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 600)
_STAGE_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)


class RequestRecord:
    """One request on its way. It ends as exactly one of rejected, done, error and aborted."""

    def __init__(self, metrics: "Metrics") -> None:
        self._metrics = metrics
        self._started_s = perf_counter()
        self.is_accepted = False
        self.outcome = "done"
        self.status = 200

    @property
    def elapsed_s(self) -> float:
        return perf_counter() - self._started_s

    def accept(self) -> None:
        self.is_accepted = True
        self._metrics.in_flight.inc()

    def observe_first_output(self) -> None:
        self._metrics.time_to_first_token_s.observe(self.elapsed_s)

    def fail(self, status: int) -> None:
        """The client's fault is a rejection, however late; a stream cut half-way an error 200."""
        is_refused = not self.is_accepted or 400 <= status < 500
        self.outcome = "rejected" if is_refused else "error"
        self.status = status

    def abort(self) -> None:
        self.outcome = "aborted"
        self.status = CLIENT_CLOSED_REQUEST

    def close(self) -> None:
        add_fields(outcome=self.outcome)
        self._metrics.requests.labels(self.outcome, str(self.status)).inc()
        if self.is_accepted:
            self._metrics.in_flight.dec()
        if self.outcome == "done":
            self._metrics.request_s.observe(self.elapsed_s)


class Metrics:
    """The metrics of one registry; see `metrics_of`.

    If several processes serve, their counts lie in a folder, and each shows the sums.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._collectors: list[Collector] = []
        self.requests = Counter(
            "qwen3vl_requests",
            "Requests for answers by outcome (done, error, aborted, rejected) and HTTP status.",
            ("outcome", "status"),
            registry=registry,
        )
        self.in_flight = Gauge(
            "qwen3vl_requests_in_flight",
            "Accepted requests under way.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.time_to_first_token_s = Histogram(
            "qwen3vl_time_to_first_token_seconds",
            "From the arrival of a request to the first output of the engine.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.request_s = Histogram(
            "qwen3vl_request_seconds",
            "From the arrival of a request to the end of its answer, if it was done.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.media_fetch_s = Histogram(
            "qwen3vl_media_fetch_seconds",
            "Fetching, or decoding the data URLs of, all media of a request.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.media_load_s = Histogram(
            "qwen3vl_media_load_seconds",
            "Hashing, decoding and resizing all media of a request.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.prompt_tokens = Counter(
            "qwen3vl_prompt_tokens",
            "Prompt tokens by kind (text, image, video).",
            ("kind",),
            registry=registry,
        )
        self.completion_tokens = Counter(
            "qwen3vl_completion_tokens", "Tokens generated for answers.", registry=registry
        )
        self.media_items = Counter(
            "qwen3vl_media_items", "Images and videos loaded.", ("modality",), registry=registry
        )
        self._media_stage_s = Histogram(
            "qwen3vl_media_stage_seconds",
            "Seconds of visual items: queue (for a thread), open, decode, resize; known ones none.",
            ("stage",),
            buckets=_STAGE_SECONDS,
            registry=registry,
        )
        self.visual_items = Counter(
            "qwen3vl_visual_items",
            "Images and temporal patches of requests, by whether the cache was expected to know "
            "them (known) or their pixels were made (decoded).",
            ("pixels",),
            registry=registry,
        )
        self._encoder_items = Counter(
            "qwen3vl_encoder_items",
            "Visual items that an encoder process has encoded for others.",
            ("modality",),
            registry=registry,
        )
        self._encoder_batches = Counter(
            "qwen3vl_encoder_batches", "Batches of these items.", registry=registry
        )
        self.media_bytes = Counter(
            "qwen3vl_media_bytes", "Encoded bytes of images and videos.", registry=registry
        )

    def add(self, collector: Collector) -> None:
        """Show metrics that are the same in all processes."""
        self._collectors.append(collector)

    def render(self) -> bytes:
        """In Prometheus' text format."""
        shown = CollectorRegistry()
        if are_metrics_shared():
            collect: Any = MultiProcessCollector
            collect(shown)
            sources = [shown, *self._collectors]
        else:
            sources = [self.registry, *self._collectors]
        return b"".join(map(generate_latest, sources))

    def observe_media_stage(self, stage: str, seconds: float) -> None:
        self._media_stage_s.labels(stage).observe(seconds)

    def observe_encoded_batch(self, modality: str, num_items: int) -> None:
        self._encoder_items.labels(modality).inc(num_items)
        self._encoder_batches.inc()

    @contextmanager
    def track_request(self) -> Iterator[RequestRecord]:
        record = RequestRecord(self)
        try:
            yield record
        except (asyncio.CancelledError, ClientDisconnect):
            record.abort()
            raise
        except Exception as error:
            record.fail(status_of(error))
            raise
        finally:
            record.close()


@cache
def metrics_of(registry: CollectorRegistry = REGISTRY) -> Metrics:
    """The one `Metrics` object of a registry: names can be registered only once."""
    return Metrics(registry)
