"""A collector of traces: it takes OTLP over HTTP or gRPC, and keeps what came."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

from tests.throwaway_server import Handler, address_of, listening


@dataclass(frozen=True, slots=True)
class SeenSpan:
    """A span as it came, ids in hexadecimal digits, times in seconds since 1970."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    status: int
    begin_s: float
    end_s: float
    attributes: dict[str, Any]


@dataclass(slots=True)
class Collector:
    """Attributes:
    bodies: all that came, encoded.
    headers: of the last HTTP request.
    """

    endpoint: str = ""
    bodies: list[bytes] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def spans(self) -> list[SeenSpan]:
        return [
            _read(span)
            for resource in self._resources()
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def resource(self) -> dict[str, Any]:
        return _values(next(self._resources()).resource.attributes)

    def _resources(self) -> Iterator[Any]:
        for body in list(self.bodies):
            yield from ExportTraceServiceRequest.FromString(body).resource_spans

    def under(self, parent: SeenSpan) -> dict[str, SeenSpan]:
        """The children of a span, by name."""
        return {span.name: span for span in self.spans if span.parent_id == parent.span_id}


@contextmanager
def collect_http() -> Iterator[Collector]:
    collector = Collector()

    class Traces(Handler):
        def do_POST(self) -> None:
            collector.headers = dict(self.headers)
            collector.bodies.append(self.read_body())
            self.answer(200)

    with listening(Traces) as server:
        collector.endpoint = f"{address_of(server)}/v1/traces"
        yield collector


@contextmanager
def collect_grpc() -> Iterator[Collector]:
    collector = Collector()

    class Service(TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:
            collector.bodies.append(request.SerializeToString())
            return ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    add_TraceServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    collector.endpoint = f"http://127.0.0.1:{port}"
    try:
        yield collector
    finally:
        server.stop(None).wait()


def _read(span: Any) -> SeenSpan:
    return SeenSpan(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.kind,
        span.status.code,
        span.start_time_unix_nano / 1e9,
        span.end_time_unix_nano / 1e9,
        _values(span.attributes),
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {attribute.key: _value(attribute.value) for attribute in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind)
