import logging

import pytest
from starlette.exceptions import HTTPException

from multimodal.errors import (
    InvalidOption,
    MediaCorrupt,
    MediaError,
    MediaTooLarge,
    UnsupportedMedia,
)
from server.engine import EngineDead, InvalidSampling
from server.errors import (
    ClientError,
    EngineFailed,
    InvalidRequest,
    ModelNotFound,
    NotReady,
    Overloaded,
    PayloadTooLarge,
    ServerError,
    UnsupportedContentType,
    describe_error,
    format_param,
    status_of,
)
from server.media_fetch import FetchFailed
from server.media_url import UrlNotAllowed


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidRequest("m", "c", "p"), 400),
        (ModelNotFound("m", "c", "p"), 404),
        (PayloadTooLarge("m", "c", "p"), 413),
        (UnsupportedContentType("m", "c", "p"), 415),
        (EngineFailed("m", "c", "p"), 500),
        (Overloaded("m", "c", "p"), 503),
        (NotReady("m", "c", "p"), 503),
        (InvalidOption("m", "c", "p"), 400),
        (MediaTooLarge("m", "c", "p"), 413),
        (UnsupportedMedia("m", "c", "p"), 415),
        (MediaCorrupt("m", "c", "p"), 422),
        (MediaError("m", "c", "p"), 422),
    ],
)
def test_typed_error_keeps_its_words(error, status):
    answer = describe_error(error, "id")
    kind = "invalid_request_error" if status < 500 else "server_error"
    assert answer.status == status_of(error) == status
    assert answer.body == {"error": {"message": "m", "type": kind, "param": "p", "code": "c"}}


def test_every_error_class_has_a_status_of_its_own():
    for cls in (*ClientError.__subclasses__(), *ServerError.__subclasses__()):
        expected = range(400, 500) if issubclass(cls, ClientError) else range(500, 600)
        assert status_of(cls("m", "c")) in expected


def test_subclass_has_the_status_of_its_base():
    assert status_of(FetchFailed("no answer")) == 422


def test_url_that_is_not_fetched_is_a_bad_request():
    assert status_of(UrlNotAllowed("no such scheme")) == 400


def test_refused_sampling_is_the_clients_to_read():
    answer = describe_error(InvalidSampling("token id 9 is out of range"), "id")
    assert (answer.status, answer.body["error"]["message"]) == (400, "token id 9 is out of range")


def test_dead_engine_says_nothing_of_the_cause():
    answer = describe_error(EngineDead("/secret/path"), "id")
    assert answer.status == 503 and "secret" not in str(answer.body)


@pytest.mark.parametrize("error", [Overloaded("m", "c"), NotReady("m", "c"), EngineDead()])
def test_503_says_when_to_come_back(error):
    assert int(describe_error(error, "id").headers["Retry-After"]) >= 1


@pytest.mark.parametrize("error", [ValueError("/secret"), KeyError("secret"), OSError("secret")])
def test_unknown_exception_is_a_bug_with_an_id_and_no_details(error, caplog):
    with caplog.at_level(logging.ERROR):
        answer = describe_error(error, "req-7")
    assert (answer.status, answer.body["error"]["code"]) == (500, "internal_error")
    assert "req-7" in answer.body["error"]["message"] and "secret" not in str(answer.body)
    assert caplog.records[0].exc_info[1] is error


def test_routing_error_keeps_its_headers():
    answer = describe_error(HTTPException(405, headers={"Allow": "GET"}), "id")
    assert (answer.body["error"]["code"], answer.headers) == (
        "method_not_allowed",
        {"Allow": "GET"},
    )


@pytest.mark.parametrize(
    ("loc", "param"),
    [
        (("messages", 1, "<user>", "content", "<list>", 0, "<text>", "text"),
         "messages[1].content[0].text"),
        (("seed",), "seed"),
        ((), None),
    ],
)  # fmt: skip
def test_place_in_the_body_is_written_like_python(loc, param):
    assert format_param(loc) == param
