import asyncio
import re
import time

import pytest
from prometheus_client import CollectorRegistry

from server.app import create_app
from server.cache_metrics import CacheMetrics
from server.encode_request import ENCODE_PATH
from server.engine import InvalidSampling
from server.errors import EngineFailed, InvalidRequest, Overloaded
from server.metrics import ENDPOINTS, metrics_of
from server.metrics_reference import iterate_metrics
from server.settings import Settings
from server.state import ServerState
from tests.unit.server.test_cache_metrics import make_report

PATH = "/v1/chat/completions"


@pytest.fixture
def metrics():
    return metrics_of(CollectorRegistry())


def count(metrics, outcome: str, status: str) -> float | None:
    labels = {"endpoint": PATH, "outcome": outcome, "status": status}
    return metrics.registry.get_sample_value("qwen3vl_requests_total", labels)


def test_a_registry_has_one_set_of_metrics_however_often_it_is_asked_for():
    registry = CollectorRegistry()
    assert metrics_of(registry) is metrics_of(registry)


def test_two_registries_count_apart(metrics):
    metrics_of(CollectorRegistry()).completion_tokens.inc()
    assert metrics.registry.get_sample_value("qwen3vl_completion_tokens_total") == 0


def test_failure_before_acceptance_is_a_rejection(metrics):
    with pytest.raises(Overloaded), metrics.track_request(PATH):
        raise Overloaded("m", "c")
    assert count(metrics, "rejected", "503") == 1


def test_failure_after_acceptance_is_an_error(metrics):
    with pytest.raises(EngineFailed), metrics.track_request(PATH) as record:
        record.accept()
        raise EngineFailed("m", "c")
    assert count(metrics, "error", "500") == 1


def test_refusal_after_acceptance_is_a_rejection(metrics):
    with pytest.raises(InvalidRequest), metrics.track_request(PATH) as record:
        record.accept()
        raise InvalidRequest("m", "c")
    assert count(metrics, "rejected", "400") == 1


def test_cancelled_request_is_aborted(metrics):
    with pytest.raises(asyncio.CancelledError), metrics.track_request(PATH) as record:
        record.accept()
        raise asyncio.CancelledError
    assert count(metrics, "aborted", "499") == 1


def test_accepted_request_is_in_flight_until_its_end(metrics):
    def in_flight():
        return metrics.registry.get_sample_value("qwen3vl_requests_in_flight")

    with metrics.track_request(PATH) as record:
        assert in_flight() == 0
        record.accept()
        assert in_flight() == 1
    assert in_flight() == 0


def test_only_finished_requests_enter_the_duration_histogram(metrics):
    with pytest.raises(ValueError, match="x"), metrics.track_request(PATH) as record:
        record.accept()
        raise ValueError("x")
    assert metrics.registry.get_sample_value("qwen3vl_request_seconds_count") == 0


def test_an_error_is_counted_by_its_code(metrics):
    for error in (Overloaded("m", "overloaded"), ValueError("x"), InvalidSampling("m")):
        with pytest.raises(type(error)), metrics.track_request(PATH):
            raise error
    for code in ("overloaded", "internal_error", "invalid_sampling"):
        assert metrics.registry.get_sample_value("qwen3vl_errors_total", {"code": code}) == 1


def test_a_path_that_a_client_invents_makes_no_label(metrics):
    metrics.count_rejection("/v1/invented", Overloaded("m", "overloaded"))
    labels = {"endpoint": "other", "outcome": "rejected", "status": "503"}
    assert metrics.registry.get_sample_value("qwen3vl_requests_total", labels) == 1


def test_endpoints_that_are_counted_are_routes():
    app = create_app(ServerState(Settings(), CollectorRegistry()))
    routes = {getattr(route, "path", None) for route in app.routes}
    assert routes >= ENDPOINTS - {ENCODE_PATH}


def test_tokens_of_a_finished_request_enter_the_histograms(metrics):
    def count(name):
        return metrics.registry.get_sample_value(f"qwen3vl_{name}")

    with metrics.track_request(PATH) as record:
        record.accept()
        record.observe_first_output()
        record.count_tokens(12, 9)
    assert count("completion_tokens_total") == 12
    assert count("reasoning_tokens_total") == 9
    assert count("request_completion_tokens_sum") == 12
    assert count("time_per_output_token_seconds_count") == 1
    with metrics.track_request(PATH) as record:
        record.accept()
        record.observe_first_output()
        record.count_tokens(1, 0)  # no further token
    assert count("time_per_output_token_seconds_count") == 1


def test_cpu_time_is_counted_once(metrics):
    metrics.count_cpu()
    before = time.process_time()
    metrics.count_cpu()
    metrics.render()
    counted = metrics.registry.get_sample_value("qwen3vl_frontend_cpu_seconds_total")
    assert before <= counted <= time.process_time()


def test_the_reference_has_every_metric_with_its_type_labels_and_help():
    """And nothing else: what is made from the same table elsewhere is compared here, too."""
    registry = CollectorRegistry()
    metrics, cache = metrics_of(registry), CacheMetrics()
    metrics.observe_media_stage("decode", 1.0)
    cache.update(0, make_report())
    registry.register(cache)
    specs = {spec.name.removesuffix("_total"): spec for spec in iterate_metrics()}
    families = {family.name: family for family in registry.collect()}
    assert families.keys() == specs.keys()
    for name, family in families.items():
        assert (family.type, family.documentation) == (specs[name].kind, specs[name].help)
        for sample in family.samples:
            assert sample.labels.keys() - {"le"} == specs[name].labels.keys()


def test_metrics_have_base_units_and_counters_say_that_they_are_totals():
    for spec in iterate_metrics():
        assert spec.name.startswith("qwen3vl_")
        assert spec.name.endswith("_total") == (spec.kind == "counter"), spec.name
        assert not re.search("_(ms|milliseconds|minutes|kib|mib|percent)(_|$)", spec.name)
        assert spec.help.endswith(".")
        assert list(spec.buckets) == sorted(set(spec.buckets))
        assert bool(spec.buckets) == (spec.kind == "histogram")
