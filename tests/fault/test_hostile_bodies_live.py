"""Hostile bodies, headers and bytes for a real server: typed refusals, and it goes on."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import pytest

from tests.fault.bodies import HOSTILE_BODIES, MESSAGES, VALID, HostileBody
from tests.fault.live import LiveServer, assert_refused, start_live
from tests.fault.raw_requests import RAW_REQUESTS, RawRequest, exchange

pytestmark = pytest.mark.slow

_MAX_ANSWER_BYTES = 4000


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    yield from start_live(tmp_path_factory.mktemp("bodies"), compile_timeout_s=5)


def send(live: LiveServer, body: HostileBody) -> httpx.Response:
    return live.http.post(body.path, content=body.content, headers=dict(body.headers))


def test_there_are_as_many_as_promised() -> None:
    assert len({body.name for body in HOSTILE_BODIES}) == len(HOSTILE_BODIES) >= 150
    assert len({request.name for request in RAW_REQUESTS}) == len(RAW_REQUESTS) >= 60


@pytest.mark.parametrize("path", VALID)
def test_a_valid_body_is_answered(live: LiveServer, path: str) -> None:
    """So the others are refused for what is hostile about them."""
    assert live.post(dict(VALID[path]), path).status_code == 200


@pytest.mark.parametrize("body", HOSTILE_BODIES, ids=lambda body: body.name)
def test_a_hostile_body_is_answered_as_it_should_be(live: LiveServer, body: HostileBody) -> None:
    response = send(live, body)
    if response.status_code != 200 or 200 not in body.statuses:
        error = assert_refused(response, body.statuses)
        assert error["type"] != "server_error"
    assert len(response.content) < _MAX_ANSWER_BYTES
    live.assert_answers()


def test_errors_of_messages_have_their_own_shape(live: LiveServer) -> None:
    bodies = [body for body in HOSTILE_BODIES if body.path == MESSAGES and 200 not in body.statuses]
    for body in bodies[::5]:
        answer = send(live, body).json()
        assert answer["type"] == "error" and set(answer["error"]) >= {"type", "message"}


@pytest.mark.parametrize("request_", RAW_REQUESTS, ids=lambda request: request.name)
def test_bytes_that_are_no_proper_request(live: LiveServer, request_: RawRequest) -> None:
    address = urlsplit(live.server.base_url)
    statuses, received = exchange(str(address.hostname), int(address.port or 0), request_)
    expected = [list(request_.statuses), *([[]] if request_.is_cut else [])]
    assert statuses in expected, received[-500:]
    assert b"Traceback" not in received and b"# HELP" not in received
    live.assert_answers()


def test_many_of_them_at_once(live: LiveServer) -> None:
    bodies = [body for body in HOSTILE_BODIES if len(body.content) < 100_000][::4]
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda body: send(live, body), bodies))
    for body, response in zip(bodies, responses, strict=True):
        assert response.status_code in body.statuses, (body.name, response.text)
    live.assert_unharmed()


def test_none_of_them_was_an_internal_error(live: LiveServer) -> None:
    assert "Traceback" not in live.server.log
