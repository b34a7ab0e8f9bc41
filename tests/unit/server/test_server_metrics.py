import asyncio

import pytest
from prometheus_client import CollectorRegistry

from server.errors import EngineFailed, InvalidRequest, Overloaded
from server.metrics import metrics_of


@pytest.fixture
def metrics():
    return metrics_of(CollectorRegistry())


def count(metrics, outcome: str, status: str) -> float | None:
    labels = {"outcome": outcome, "status": status}
    return metrics.registry.get_sample_value("qwen3vl_requests_total", labels)


def test_a_registry_has_one_set_of_metrics_however_often_it_is_asked_for():
    registry = CollectorRegistry()
    assert metrics_of(registry) is metrics_of(registry)


def test_two_registries_count_apart(metrics):
    metrics_of(CollectorRegistry()).completion_tokens.inc()
    assert metrics.registry.get_sample_value("qwen3vl_completion_tokens_total") == 0


def test_failure_before_acceptance_is_a_rejection(metrics):
    with pytest.raises(Overloaded), metrics.track_request():
        raise Overloaded("m", "c")
    assert count(metrics, "rejected", "503") == 1


def test_failure_after_acceptance_is_an_error(metrics):
    with pytest.raises(EngineFailed), metrics.track_request() as record:
        record.accept()
        raise EngineFailed("m", "c")
    assert count(metrics, "error", "500") == 1


def test_refusal_after_acceptance_is_a_rejection(metrics):
    with pytest.raises(InvalidRequest), metrics.track_request() as record:
        record.accept()
        raise InvalidRequest("m", "c")
    assert count(metrics, "rejected", "400") == 1


def test_cancelled_request_is_aborted(metrics):
    with pytest.raises(asyncio.CancelledError), metrics.track_request() as record:
        record.accept()
        raise asyncio.CancelledError
    assert count(metrics, "aborted", "499") == 1


def test_accepted_request_is_in_flight_until_its_end(metrics):
    def in_flight():
        return metrics.registry.get_sample_value("qwen3vl_requests_in_flight")

    with metrics.track_request() as record:
        assert in_flight() == 0
        record.accept()
        assert in_flight() == 1
    assert in_flight() == 0


def test_only_finished_requests_enter_the_duration_histogram(metrics):
    with pytest.raises(ValueError, match="x"), metrics.track_request() as record:
        record.accept()
        raise ValueError("x")
    assert metrics.registry.get_sample_value("qwen3vl_request_seconds_count") == 0
