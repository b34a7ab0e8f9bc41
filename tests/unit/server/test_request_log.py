"""The line that each request leaves in the log."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from server.access.client import Client
from server.errors import Overloaded
from server.request_log import add_fields
from server.request_scope import RequestScope

Endpoint = Callable[[Request], Awaitable[Response]]


def make_app(*routes: Route) -> Starlette:
    return Starlette(routes=routes, middleware=[Middleware(RequestScope)])


async def ask(
    endpoint: Endpoint,
    caplog: pytest.LogCaptureFixture,
    path: str = "/items/secret",
    **options: Any,
) -> tuple[httpx.Response | None, dict[str, Any]]:
    """The answer, and the fields of the line."""
    app = make_app(Route("/items/{name}", endpoint))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    with caplog.at_level(logging.INFO, logger="server.request_log"):
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answer = await client.request("GET", path, **options)
    (record,) = [record for record in caplog.records if record.name == "server.request_log"]
    fields: dict[str, Any] = record.fields  # type: ignore[attr-defined]
    assert fields.pop("duration_ms") >= 0
    return answer, fields


async def _answer(request: Request) -> Response:
    return PlainTextResponse("ok")


async def test_a_request_is_told_by_its_route_and_not_by_its_path(caplog):
    answer, fields = await ask(_answer, caplog, "/items/secret?key=secret")
    assert answer.status_code == 200
    assert fields == {
        "method": "GET",
        "route": "/items/{name}",
        "status": 200,
        "outcome": "done",
        "client": None,
    }


async def test_a_path_that_is_not_served_stays_out(caplog):
    _, fields = await ask(_answer, caplog, "/secret/key")
    assert (fields["route"], fields["status"], fields["outcome"]) == ("none", 404, "rejected")


async def test_the_line_has_the_clients_name_and_what_is_added(caplog):
    async def answer(request: Request) -> Response:
        request.state.client = Client("7f", "reports")
        add_fields(prompt_tokens=3)
        return PlainTextResponse("ok")

    _, fields = await ask(answer, caplog)
    assert (fields["client"], fields["prompt_tokens"]) == ("reports", 3)


@pytest.mark.parametrize(
    ("error", "status", "outcome", "code"),
    [
        (Overloaded("busy", "overloaded"), 503, "error", "overloaded"),
        (ValueError("secret"), 500, "error", "internal_error"),
        (ClientDisconnect(), 499, "aborted", None),
    ],
)
async def test_the_line_tells_how_a_request_has_ended(error, status, outcome, code, caplog):
    async def answer(request: Request) -> Response:
        raise error

    app = make_app(Route("/", answer))
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
    with caplog.at_level(logging.INFO, logger="server.request_log"):
        await app(scope, None, send)
    (record,) = [record for record in caplog.records if record.name == "server.request_log"]
    fields = record.fields
    assert (fields["status"], fields["outcome"], fields.get("code")) == (status, outcome, code)
    assert bool(sent) == (status != 499)


async def test_an_unknown_method_is_not_repeated(caplog):
    app = make_app()

    async def send(message: Any) -> None:
        pass

    scope = {"type": "http", "method": "SECRET", "path": "/", "headers": [], "query_string": b""}
    with caplog.at_level(logging.INFO, logger="server.request_log"):
        await app(scope, None, send)
    assert caplog.records[-1].fields["method"] == "other"
