"""Prometheus and a trace collector on the real server, which takes requests in two processes."""

import math
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml

from tests.api_keys import bearer, write_key_file
from tests.e2e.real_cache import picture_part
from tests.e2e.real_media import image, text, video
from tests.e2e.real_server import MODEL_NAME, RealServer, make_request, wait_until
from tests.e2e.scaling import free_port
from tests.fake_backend import CORRUPT_URL, image_part
from tests.monitoring import CONFIG, RULES, dashboard_expressions, rules
from tests.otlp_collector import Collector, SeenSpan, collect_http

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("prometheus") is None,
        reason="Prometheus is missing: apt-get install prometheus",
    ),
]

ADMIN, USER = "key-of-the-operator", "key-of-a-user"
SECRET = "heliotrope"  # in what the client writes
TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
_JOB = "qwen3vl-serve"
_HANG_S = 120
_CLOCKS_S = 1.0

# Expressions that have data only when there is something wrong.
_EXCEPTIONS = {f'absent(up{{job="{_JOB}"}})': "there is a server"}


class ObservedServer(RealServer):
    """Its metrics are for operators."""

    @property
    def metrics_page(self) -> str:
        return self.http.get("/metrics", headers=bearer(ADMIN)).text

    def ask_as_user(self, content: Any, **options: Any) -> httpx.Response:
        body = make_request(content, **options)
        body |= body.pop("extra_body", {})
        headers = {**bearer(USER), "traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"}
        return httpx.post(
            f"{self.base_url}/v1/chat/completions", json=body, headers=headers, timeout=_HANG_S
        )


class Prometheus:
    """The real one, with the project's configuration."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=_HANG_S)

    def is_ready(self) -> bool:
        try:
            return self._http.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def get(self, path: str, **params: str) -> Any:
        answer = self._http.get(f"/api/v1/{path}", params=params).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[float]:
        """The values of all series now; no NaN."""
        values = [float(one["value"][1]) for one in self.get("query", query=expression)["result"]]
        return [value for value in values if not math.isnan(value)]

    def wait_for_scrape(self) -> None:
        """Until one has begun after this call. (`timestamp` is that only of a plain selector.)"""
        now = time.time()
        wait_until(
            lambda: any(t > now for t in self.query(f'timestamp(up{{job="{_JOB}"}})')), _HANG_S
        )


@dataclass(frozen=True, slots=True)
class Observed:
    server: ObservedServer
    prometheus: Prometheus
    collector: Collector
    answers: list[httpx.Response]


@pytest.fixture(scope="module")
def observed(hybrid_checkpoint: Path, logs: Path, tmp_path_factory: Any) -> Iterator[Observed]:
    folder = tmp_path_factory.mktemp("observed")
    keys = write_key_file(folder / "keys", {"key": ADMIN, "role": "admin"}, {"key": USER})
    variables = {
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-collector-key=let-me-in",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_SERVICE_NAME": "pictures",
    }
    with (
        collect_http() as collector,
        ObservedServer(
            hybrid_checkpoint,
            logs / "observed",
            variables,
            max_model_len=4096,
            api_workers=2,
            api_keys_file=keys,
            device_bytes=1,  # so that the other tiers are asked
            disk_dir=folder / "disk",
            otlp_traces_endpoint=collector.endpoint,
        ) as server,
        run_prometheus(folder, server) as prometheus,
    ):
        prometheus.wait_for_scrape()
        answers = ask_everything(server, 0)
        prometheus.wait_for_scrape()
        answers += ask_everything(server, 1)
        wait_until(lambda: "engine.decode" in {span.name for span in collector.spans}, _HANG_S)
        prometheus.wait_for_scrape()
        yield Observed(server, prometheus, collector, answers)


def ask_everything(server: ObservedServer, seed: int) -> list[httpx.Response]:
    """Pictures that are new and known, a clip, thinking, and what is refused."""
    pictures = [image(), picture_part(seed), text(SECRET)]
    return [
        # what comes first differs, or the prefix cache would know it all
        server.ask_as_user([text(f"first {seed}"), *pictures]),
        server.ask_as_user([text(f"second {seed}"), *pictures]),
        server.ask_as_user([video(), text("What happens?")], n=2, temperature=1),
        server.ask_as_user("Think.", thinks=True, stream=True, max_tokens=12),
        server.ask_as_user([image_part(CORRUPT_URL)]),
    ]


@contextmanager
def run_prometheus(folder: Path, server: RealServer) -> Iterator[Prometheus]:
    """With the project's configuration, but for where the server and the files are."""
    config = yaml.safe_load(CONFIG.read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(RULES)]
    (scrape,) = config["scrape_configs"]
    assert scrape["job_name"] == _JOB
    del scrape["dns_sd_configs"]  # there is no name server here
    scrape["static_configs"] = [{"targets": [httpx.URL(server.base_url).netloc.decode()]}]
    key = folder / "metrics_key"
    key.write_text(ADMIN)
    scrape["authorization"]["credentials_file"] = str(key)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        prometheus = Prometheus(f"http://127.0.0.1:{port}")
        wait_until(prometheus.is_ready, _HANG_S)
        yield prometheus
    finally:
        process.kill()
        process.wait()


def test_requests_were_answered_as_meant(observed: Observed) -> None:
    statuses = [answer.status_code for answer in observed.answers]
    assert statuses == [200, 200, 200, 200, 415] * 2, [a.text for a in observed.answers]


def test_promtool_has_no_complaint_about_our_metrics(observed: Observed) -> None:
    page = observed.server.metrics_page
    said = subprocess.run(
        ["promtool", "check", "metrics"],
        input=page,
        capture_output=True,
        text=True,
        timeout=_HANG_S,
    )
    complaints = (said.stdout + said.stderr).splitlines()
    assert [line for line in complaints if not line.startswith("vllm:")] == []


def test_both_processes_count_together(observed: Observed) -> None:
    prometheus = observed.prometheus
    counted = prometheus.get("query", query="sum by (outcome) (qwen3vl_requests_total)")["result"]
    assert {one["metric"]["outcome"]: one["value"][1] for one in counted} == {
        "done": "8",
        "rejected": "2",
    }
    assert prometheus.query("sum(qwen3vl_requests_in_flight)") == [0]
    assert prometheus.query("qwen3vl_errors_total") == [2]
    assert 0 < prometheus.query("qwen3vl_reasoning_tokens_total")[0] <= 24


def test_every_expression_of_the_dashboard_has_data(observed: Observed) -> None:
    without = [
        (title, expression)
        for title, expression in dashboard_expressions()
        if not observed.prometheus.query(
            expression.replace("$instance", ".+").replace("$__rate_interval", "10m")
        )
    ]
    assert without == []


def test_the_dashboard_finds_the_server(observed: Observed) -> None:
    (series,) = observed.prometheus.get("series", **{"match[]": f'up{{job="{_JOB}"}}'})
    assert series["instance"] == httpx.URL(observed.server.base_url).netloc.decode()


def test_every_expression_of_the_rules_has_data(observed: Observed) -> None:
    """`bool` makes 0 or 1 of a comparison that would leave out what is not so."""
    expressions = [rule["expr"] for rule in rules() if rule["expr"] not in _EXCEPTIONS]
    assert len(expressions) == len(rules()) - len(_EXCEPTIONS)
    compared = [re.sub(r"([=<>]=|[<>]) (?=[\d.])", r"\1 bool ", one) for one in expressions]
    assert all(" bool " in one for one in compared)
    assert [one for one in compared if not observed.prometheus.query(one)] == []


def test_no_alert_is_raised_about_a_good_server(observed: Observed) -> None:
    (group,) = observed.prometheus.get("rules")["groups"]
    assert len(group["rules"]) == len(rules())
    assert {rule["health"] for rule in group["rules"]} <= {"ok", "unknown"}  # not yet evaluated
    assert [rule["name"] for rule in group["rules"] if rule["state"] == "firing"] == []


def test_metrics_of_vllm_that_the_reference_names_are_there(observed: Observed) -> None:
    page = (CONFIG.parents[2] / "docs" / "metrics.md").read_text()
    named = set(re.findall(r"`(vllm:\w+)", page))
    assert len(named) > 10
    shown = observed.server.metrics_page
    assert [name for name in sorted(named) if f"\n{name}" not in shown] == []


def roots(collector: Collector) -> list[SeenSpan]:
    return [span for span in collector.spans if span.parent_id == PARENT_ID]


def test_every_request_is_a_span_of_the_clients_trace(observed: Observed) -> None:
    collector = observed.collector
    wait_until(lambda: len(roots(collector)) == len(observed.answers), _HANG_S)
    assert {span.trace_id for span in collector.spans} == {TRACE_ID}
    assert collector.resource["service.name"] == "pictures"
    assert collector.headers["x-collector-key"] == "let-me-in"
    names = [span.name for span in roots(collector)]
    assert names.count(f"chat {MODEL_NAME}") == 8
    assert names.count("POST /v1/chat/completions") == 2  # refused before


def test_a_span_has_its_steps_in_order(observed: Observed) -> None:
    def in_order(*spans: SeenSpan) -> bool:
        times = [time_s for span in spans for time_s in (span.begin_s, span.end_s)]
        return times == sorted(times)

    collector = observed.collector
    wait_until(lambda: len(roots(collector)) == len(observed.answers), _HANG_S)
    whole = [span for span in roots(collector) if span.name.startswith("chat")]
    shown = [span for span in whole if "media.fetch" in collector.under(span)]
    assert len(shown) == 6
    for root in shown:
        below = [span for span in collector.spans if span.parent_id == root.span_id]
        media = {span.name: span for span in below if span.name.startswith("media.")}
        assert in_order(media["media.fetch"], media["media.decode"])
        assert root.begin_s <= media["media.fetch"].begin_s
        engine = [span for span in below if span.name.startswith("engine.")]
        assert len(engine) == 3 * root.attributes["gen_ai.request.choice.count"]
        for request_id in {span.attributes["qwen3vl.engine.request_id"] for span in engine}:
            steps = {
                span.name: span
                for span in engine
                if span.attributes["qwen3vl.engine.request_id"] == request_id
            }
            names = ("engine.queue", "engine.prefill", "engine.decode")
            queue, prefill, decode = (steps[name] for name in names)
            assert in_order(queue, prefill, decode)
            # the engine's clock is another one, which may be set meanwhile
            assert media["media.decode"].end_s <= queue.begin_s + _CLOCKS_S
            assert decode.end_s <= root.end_s + _CLOCKS_S


def test_attributes_are_those_of_the_answer(observed: Observed) -> None:
    (thought, *_) = [
        span
        for span in roots(observed.collector)
        if span.attributes.get("gen_ai.request.stream") is True
    ]
    attributes = thought.attributes
    assert attributes["gen_ai.request.max_tokens"] == 12
    assert attributes["gen_ai.usage.output_tokens"] == 12
    assert 0 < attributes["gen_ai.usage.reasoning.output_tokens"] <= 12
    assert attributes["gen_ai.response.finish_reasons"] == ["length"]
    assert attributes["gen_ai.response.time_to_first_chunk"] > 0
    (shown, *_) = [
        span
        for span in roots(observed.collector)
        if "qwen3vl.usage.image.input_tokens" in span.attributes
    ]
    usage = observed.answers[0].json()["usage"]
    assert shown.attributes["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]


def test_what_clients_write_is_not_in_traces(observed: Observed) -> None:
    sent = b"".join(observed.collector.bodies)
    for hidden in (SECRET, "Think.", "base64", ADMIN, USER, "What happens"):
        assert hidden.encode() not in sent


def test_metrics_need_the_operators_key(observed: Observed) -> None:
    client = openai.OpenAI(base_url=f"{observed.server.base_url}/v1", api_key=USER, max_retries=0)
    with pytest.raises(openai.PermissionDeniedError):
        client.get("../metrics", cast_to=httpx.Response)
