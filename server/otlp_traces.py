"""Traces of requests as OpenTelemetry spans, sent by OTLP. Imported only where they are wanted.

One span per request, which continues the client's trace, with a span for each step. Attributes
are those of the semantic conventions for HTTP servers and generative AI where they have one. They
are numbers, names of ours and the name of the model: never what a client wrote.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.semconv.attributes import error_attributes as error
from opentelemetry.semconv.attributes import http_attributes as http
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers
from starlette.types import Scope

from server.engine import EngineRequest, EngineTimes, SamplingOptions
from server.settings import OtlpProtocol
from server.trace import UNTRACED, RequestTrace, Stage
from server.version import PROJECT, find_version

if TYPE_CHECKING:
    from server.answer import Usage
    from server.choice import FinishReason

_TEXT_ENDPOINT = "/v1/completions"
_TRACE_HEADERS = (
    "traceparent",
)  # `tracestate` is free text, which would be in spans and in the log
_FLUSH_TIMEOUT_S = 5.0  # at the end, for a collector that does not answer


class OtlpTracing:
    """Sends spans from a thread, in batches; what a collector does not take is dropped.

    To be made in the process that uses it, after all forks.

    Args:
        endpoint: `http://` (not encrypted) or `https://`; a whole URL with its path for
            `http/protobuf`. Everything else is OpenTelemetry's own: OTEL_EXPORTER_OTLP_HEADERS,
            OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME, ...
    """

    def __init__(self, endpoint: str, protocol: OtlpProtocol) -> None:
        own = {"service.name": PROJECT, "service.version": find_version(PROJECT) or "unknown"}
        resource = Resource.create().merge(Resource(own)).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_make_exporter(endpoint, protocol)))
        self._tracer = self._provider.get_tracer(PROJECT)
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def request(self, scope: Scope) -> Iterator[RequestTrace]:
        headers, path = Headers(scope=scope), scope["path"]
        carrier = {name: headers[name] for name in _TRACE_HEADERS if name in headers}
        span = self._tracer.start_span(
            f"POST {path}",
            self._propagator.extract(carrier),
            SpanKind.SERVER,
            {
                http.HTTP_REQUEST_METHOD: "POST",
                http.HTTP_ROUTE: path,
                gen_ai.GEN_AI_PROVIDER_NAME: PROJECT,
            },
        )
        try:
            is_text = path == _TEXT_ENDPOINT
            yield SpanTrace(self._tracer, span, is_text) if span.is_recording() else UNTRACED
        finally:
            span.end()

    async def shutdown(self) -> None:
        """Send what is left, if that is possible in a few seconds."""
        ending = Thread(target=self._provider.shutdown, name="otlp-shutdown", daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, _FLUSH_TIMEOUT_S)


def _make_exporter(endpoint: str, protocol: OtlpProtocol) -> SpanExporter:
    """Each of the two imports megabytes that the other does not need."""
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (
            OTLPSpanExporter as GrpcExporter,
        )

        return GrpcExporter(endpoint=endpoint, insecure=not endpoint.startswith("https://"))
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
        OTLPSpanExporter as HttpExporter,
    )

    return HttpExporter(endpoint=endpoint)


class SpanTrace:
    """One request as a span with children. Args: is_text: no conversation, a plain completion."""

    def __init__(self, tracer: Tracer, span: Span, is_text: bool) -> None:
        self._tracer = tracer
        self._span = span
        self._context = trace.set_span_in_context(span)
        self._operation = "text_completion" if is_text else "chat"
        self._finish_reasons: list[str] = []

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        span = self._tracer.start_span(stage, self._context)
        try:
            yield
        finally:
            span.end()

    def observe_start(
        self, model: str, answer_id: str, requests: Sequence[EngineRequest], *, streams: bool
    ) -> None:
        self._span.update_name(f"{self._operation} {model}")
        self._span.set_attributes(
            {
                gen_ai.GEN_AI_OPERATION_NAME: self._operation,
                gen_ai.GEN_AI_REQUEST_MODEL: model,
                gen_ai.GEN_AI_RESPONSE_MODEL: model,
                gen_ai.GEN_AI_RESPONSE_ID: answer_id,
                gen_ai.GEN_AI_REQUEST_STREAM: streams,
                gen_ai.GEN_AI_REQUEST_CHOICE_COUNT: len(requests),
                **_sampling_attributes(requests[0].sampling),
            }
        )

    def observe_first_output(self, seconds: float) -> None:
        self._span.set_attribute(gen_ai.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK, seconds)

    def observe_finish(self, reason: "FinishReason") -> None:
        self._finish_reasons.append(reason)

    def observe_usage(self, usage: "Usage") -> None:
        self._span.set_attributes(
            {
                gen_ai.GEN_AI_USAGE_INPUT_TOKENS: usage.prompt.num_tokens,
                gen_ai.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: usage.num_cached_tokens,
                gen_ai.GEN_AI_USAGE_OUTPUT_TOKENS: usage.num_completion_tokens,
                gen_ai.GEN_AI_USAGE_REASONING_OUTPUT_TOKENS: usage.num_reasoning_tokens,
                "qwen3vl.usage.image.input_tokens": usage.prompt.num_image_tokens,
                "qwen3vl.usage.video.input_tokens": usage.prompt.num_video_tokens,
            }
        )

    def observe_end(self, outcome: str, status: int, code: str | None) -> None:
        self._span.set_attribute(http.HTTP_RESPONSE_STATUS_CODE, status)
        self._span.set_attribute("qwen3vl.outcome", outcome)
        if self._finish_reasons:
            reasons = tuple(self._finish_reasons)
            self._span.set_attribute(gen_ai.GEN_AI_RESPONSE_FINISH_REASONS, reasons)
        if code is not None:
            self._span.set_attribute(error.ERROR_TYPE, code)
        if outcome == "error":
            self._span.set_status(Status(StatusCode.ERROR))

    def observe_times(self, request_id: str, times: EngineTimes) -> None:
        """A step that has not ended ends now: its request is given up, or cut.

        The engines' clock is this machine's: engine cores run beside the server.
        """
        now_s, since_ns = time.monotonic(), time.time_ns() - time.monotonic_ns()
        steps = (
            ("engine.queue", times.queued_s, times.scheduled_s or now_s),
            ("engine.prefill", times.scheduled_s, times.first_token_s or now_s),
            ("engine.decode", times.first_token_s, times.last_token_s),
        )
        attributes = {"qwen3vl.engine.request_id": request_id}
        for name, begin_s, end_s in steps:
            if begin_s:
                begin_ns = since_ns + int(begin_s * 1e9)
                span = self._tracer.start_span(
                    name, self._context, attributes=attributes, start_time=begin_ns
                )
                span.end(since_ns + int(max(begin_s, end_s) * 1e9))


def _sampling_attributes(sampling: SamplingOptions) -> dict[str, int | float]:
    """As they are used, the checkpoint's own values included."""
    attributes: dict[str, int | float] = {
        gen_ai.GEN_AI_REQUEST_MAX_TOKENS: sampling.max_tokens,
        gen_ai.GEN_AI_REQUEST_TEMPERATURE: sampling.temperature,
        gen_ai.GEN_AI_REQUEST_TOP_P: sampling.top_p,
        gen_ai.GEN_AI_REQUEST_TOP_K: sampling.top_k,
        gen_ai.GEN_AI_REQUEST_PRESENCE_PENALTY: sampling.presence_penalty,
        gen_ai.GEN_AI_REQUEST_FREQUENCY_PENALTY: sampling.frequency_penalty,
    }
    if sampling.seed is not None:
        attributes[gen_ai.GEN_AI_REQUEST_SEED] = sampling.seed
    return attributes
