"""Spans of requests, with an engine that plays a script."""

import subprocess
import sys
from contextlib import AbstractContextManager
from types import SimpleNamespace

import pytest

from server.engine import EngineTimes
from server.otlp_traces import OtlpTracing
from server.settings import OtlpProtocol, SettingsError, otlp_protocol
from tests.fake_backend import CORRUPT_URL, Server, image_part
from tests.fake_engine import make_chunk
from tests.otlp_collector import Collector, SeenSpan, collect_grpc, collect_http

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
_SERVER, _ERROR = 2, 2  # of the protocol's enumerations
_COLLECTORS = {"grpc": collect_grpc, "http/protobuf": collect_http}


async def trace(
    server: Server,
    content: object = "hi",
    protocol: OtlpProtocol = "http/protobuf",
    headers: dict[str, str] | None = None,
    **fields: object,
) -> Collector:
    """What a collector gets of one request."""
    collecting: AbstractContextManager[Collector] = _COLLECTORS[protocol]()
    with collecting as collector:
        server.state.tracing = OtlpTracing(collector.endpoint, protocol)
        body = {"model": "qwen", "messages": [{"role": "user", "content": content}], **fields}
        await server.request("POST", "/v1/chat/completions", json=body, headers=headers)
        await server.state.tracing.shutdown()
        return collector


def root_of(collector: Collector) -> SeenSpan:
    (root,) = [span for span in collector.spans if span.kind == _SERVER]
    return root


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_a_request_is_one_span_with_its_steps(protocol: OtlpProtocol) -> None:
    server = Server(make_chunk("A cat.", finish="stop"))
    collector = await trace(server, [image_part()], protocol, temperature=0.5, max_tokens=7)
    root = root_of(collector)
    assert root.name == "chat qwen"
    assert root.parent_id == ""
    assert collector.under(root).keys() == {"media.fetch", "media.decode"}
    expected = {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "qwen",
        "gen_ai.request.max_tokens": 7,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.usage.input_tokens": 4,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.usage.reasoning.output_tokens": 0,
        "gen_ai.response.finish_reasons": ["stop"],
        "qwen3vl.outcome": "done",
    }
    assert expected.items() <= {key: root.attributes.get(key) for key in expected}.items()
    assert collector.resource["service.name"] == "qwen3vl-serve"


async def test_the_clients_trace_is_continued() -> None:
    headers = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"}
    root = root_of(await trace(Server(), headers=headers))
    assert (root.trace_id, root.parent_id) == (TRACE_ID, PARENT_ID)


async def test_a_client_that_does_not_trace_this_request_is_followed() -> None:
    headers = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-00"}
    assert (await trace(Server(), headers=headers)).spans == []


async def test_a_tracestate_is_not_taken_over(caplog: pytest.LogCaptureFixture) -> None:
    """It is free text of the client, and OpenTelemetry logs one that it cannot read."""
    for text in ("vendor=secret", "Bearer secret"):
        headers = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01", "tracestate": text}
        spans = (await trace(Server(), headers=headers)).spans
        assert spans and "secret" not in repr(spans)
    assert "secret" not in caplog.text


@pytest.mark.parametrize("traceparent", ["", "00-0-0-01", "garbage " * 900])
async def test_a_malformed_traceparent_is_passed_over(traceparent: str) -> None:
    root = root_of(await trace(Server(), headers={"traceparent": traceparent}))
    assert root.parent_id == ""


@pytest.mark.parametrize(
    ("script", "content", "status", "outcome", "code", "span_status"),
    [
        ([], [image_part(CORRUPT_URL)], 422, "rejected", "image_corrupt", 0),
        ([RuntimeError("secret")], "hi", 500, "error", "internal_error", _ERROR),
    ],
)
async def test_an_error_is_told_by_its_code(
    script: list[Exception],
    content: object,
    status: int,
    outcome: str,
    code: str,
    span_status: int,
) -> None:
    collector = await trace(Server(*script), content)
    root = root_of(collector)
    assert root.attributes["http.response.status_code"] == status
    assert root.attributes["qwen3vl.outcome"] == outcome
    assert root.attributes["error.type"] == code
    assert root.status == span_status
    assert b"secret" not in b"".join(collector.bodies)


async def test_steps_of_the_engine_are_where_its_clock_has_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SimpleNamespace(
        monotonic=lambda: 100.0,
        monotonic_ns=lambda: 100 * 10**9,
        time_ns=lambda: 1_000_000 * 10**9,
    )
    monkeypatch.setattr("server.otlp_traces.time", clock)
    with collect_http() as collector:
        tracing = OtlpTracing(collector.endpoint, "http/protobuf")
        with tracing.request({"type": "http", "path": "/v1/completions", "headers": []}) as request:
            assert request.observe_times is not None
            request.observe_times("whole", EngineTimes(80.0, 85.0, 90.0, 95.0))
            request.observe_times("cut", EngineTimes(80.0, 97.0, 0.0, 0.0))
        await tracing.shutdown()
    found = [
        (span.attributes["qwen3vl.engine.request_id"], span.name, span.begin_s, span.end_s)
        for span in collector.spans
        if span.kind != _SERVER
    ]
    assert found == [
        ("whole", "engine.queue", 999_980, 999_985),
        ("whole", "engine.prefill", 999_985, 999_990),
        ("whole", "engine.decode", 999_990, 999_995),
        ("cut", "engine.queue", 999_980, 999_997),
        ("cut", "engine.prefill", 999_997, 1_000_000),
    ]


async def test_without_a_collector_requests_are_answered_and_the_end_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By itself, OpenTelemetry would try for 30 s."""
    monkeypatch.setattr("server.otlp_traces._FLUSH_TIMEOUT_S", 0.1)
    server = Server()
    server.state.tracing = OtlpTracing("http://127.0.0.1:9/v1/traces", "http/protobuf")
    assert (await server.post()).status_code == 200
    await server.state.tracing.shutdown()


def test_the_protocol_is_opentelemetrys_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert otlp_protocol() == "grpc"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    assert otlp_protocol() == "http/protobuf"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc")
    assert otlp_protocol() == "grpc"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json")
    with pytest.raises(SettingsError, match="http/json"):
        otlp_protocol()


def test_who_does_not_ask_for_traces_does_not_import_them() -> None:
    """In a process of its own: this one has them already."""
    code = (
        "import asyncio, sys\n"
        "from tests.fake_backend import Server\n"
        "assert asyncio.run(Server().post()).status_code == 200\n"
        "import server.serve\n"
        "assert [name for name in sys.modules if name.startswith('opentelemetry')] == []\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
