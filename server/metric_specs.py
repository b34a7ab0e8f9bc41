"""What the server counts: names, labels and buckets, under Prometheus' conventions.

Labels take few values, none of which a client can invent. docs/metrics.md is made from this.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

MetricKind = Literal["counter", "gauge", "histogram"]
Labels = Mapping[str, str]

# 10 ms of a small model to minutes of an hour of video; dense where people begin to wait
_FIRST_TOKEN_SECONDS = (
    *(0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1, 1.5, 2, 3, 4, 5, 7.5, 10, 15, 20, 30, 60, 120, 300, 600),
)
_TOKEN_SECONDS = (
    *(0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1),
    *(0.15, 0.2, 0.3, 0.5, 1, 2.5),
)
# from a small model on a short prompt to hours of video on a large one
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 600, 1800, 3600)
_STAGE_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)
_TOKENS = tuple(2**power for power in range(3, 21))  # to 1,048,576: the longest context


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric.

    Attributes:
        name: as queries have it; a histogram's without `_bucket`, `_sum` and `_count`.
        labels: what their values are, by name.
        buckets: upper bounds, of a histogram.
    """

    name: str
    kind: MetricKind
    help: str
    labels: Labels = field(default_factory=dict)
    buckets: tuple[float, ...] = ()

    def counter(self, registry: CollectorRegistry) -> Counter:
        return Counter(self.name, self.help, tuple(self.labels), registry=registry)

    def gauge(self, registry: CollectorRegistry) -> Gauge:
        """The sum of all processes that live."""
        labels = tuple(self.labels)
        return Gauge(self.name, self.help, labels, registry=registry, multiprocess_mode="livesum")

    def histogram(self, registry: CollectorRegistry) -> Histogram:
        labels, buckets = tuple(self.labels), self.buckets
        return Histogram(self.name, self.help, labels, registry=registry, buckets=buckets)


REQUESTS = MetricSpec(
    "qwen3vl_requests_total",
    "counter",
    "Requests for answers.",
    {
        "endpoint": "path of the route, `other` before it is known",
        "outcome": "`done`, `error`, `aborted` (by the client), `rejected`",
        "status": "HTTP status; 499 if the client left",
    },
)
ERRORS = MetricSpec(
    "qwen3vl_errors_total",
    "counter",
    "Requests for answers that ended as `error` or `rejected`.",
    {"code": "`error.code` of the answer"},
)
IN_FLIGHT = MetricSpec("qwen3vl_requests_in_flight", "gauge", "Accepted requests under way.")
TIME_TO_FIRST_TOKEN = MetricSpec(
    "qwen3vl_time_to_first_token_seconds",
    "histogram",
    "From the arrival of a request to the first output of the engine.",
    buckets=_FIRST_TOKEN_SECONDS,
)
TIME_PER_OUTPUT_TOKEN = MetricSpec(
    "qwen3vl_time_per_output_token_seconds",
    "histogram",
    "From the first output to the end of a request that was done, by each of its further tokens.",
    buckets=_TOKEN_SECONDS,
)
REQUEST = MetricSpec(
    "qwen3vl_request_seconds",
    "histogram",
    "From the arrival of a request to the end of its answer, if it was done.",
    buckets=_SECONDS,
)
MEDIA_FETCH = MetricSpec(
    "qwen3vl_media_fetch_seconds",
    "histogram",
    "Fetching, or decoding the data URLs of, all media of a request.",
    buckets=_SECONDS,
)
MEDIA_LOAD = MetricSpec(
    "qwen3vl_media_load_seconds",
    "histogram",
    "Hashing, decoding and resizing all media of a request.",
    buckets=_SECONDS,
)
MEDIA_STAGE = MetricSpec(
    "qwen3vl_media_stage_seconds",
    "histogram",
    "The steps of visual items that are decoded; known ones have none.",
    {"stage": "`queue` (for a thread), `open` (video files), `decode`, `resize`"},
    _STAGE_SECONDS,
)
MEDIA_ITEMS = MetricSpec(
    "qwen3vl_media_items_total",
    "counter",
    "Images and videos loaded.",
    {"modality": "`image`, `video`"},
)
MEDIA_BYTES = MetricSpec(
    "qwen3vl_media_bytes_total", "counter", "Encoded bytes of images and videos."
)
VISUAL_ITEMS = MetricSpec(
    "qwen3vl_visual_items_total",
    "counter",
    "Images and temporal patches of requests.",
    {"pixels": "`known` (the cache was expected to have them), `decoded`"},
)
PROMPT_TOKENS = MetricSpec(
    "qwen3vl_prompt_tokens_total",
    "counter",
    "Tokens of prompts.",
    {"kind": "`text`, `image`, `video`"},
)
COMPLETION_TOKENS = MetricSpec(
    "qwen3vl_completion_tokens_total", "counter", "Tokens generated for answers, thinking included."
)
REASONING_TOKENS = MetricSpec(
    "qwen3vl_reasoning_tokens_total", "counter", "Those of them that are thinking."
)
REQUEST_PROMPT_TOKENS = MetricSpec(
    "qwen3vl_request_prompt_tokens",
    "histogram",
    "Prompt tokens of one request.",
    buckets=_TOKENS,
)
REQUEST_COMPLETION_TOKENS = MetricSpec(
    "qwen3vl_request_completion_tokens",
    "histogram",
    "Tokens generated for one request, if it was done.",
    buckets=_TOKENS,
)
FRONTEND_CPU = MetricSpec(
    "qwen3vl_frontend_cpu_seconds_total",
    "counter",
    "CPU time of the processes that take requests, their threads included; not of the engine nor "
    "of the processes that decode videos.",
)
ENCODER_ITEMS = MetricSpec(
    "qwen3vl_encoder_items_total",
    "counter",
    "Visual items that an encoder process has encoded for others.",
    {"modality": "`image`, `video`"},
)
ENCODER_BATCHES = MetricSpec("qwen3vl_encoder_batches_total", "counter", "Batches of these items.")

SERVER_METRICS = (
    *(REQUESTS, ERRORS, IN_FLIGHT, TIME_TO_FIRST_TOKEN, TIME_PER_OUTPUT_TOKEN, REQUEST),
    *(MEDIA_FETCH, MEDIA_LOAD, MEDIA_STAGE, MEDIA_ITEMS, MEDIA_BYTES, VISUAL_ITEMS),
    *(PROMPT_TOKENS, COMPLETION_TOKENS, REASONING_TOKENS),
    *(REQUEST_PROMPT_TOKENS, REQUEST_COMPLETION_TOKENS),
    *(FRONTEND_CPU, ENCODER_ITEMS, ENCODER_BATCHES),
)
