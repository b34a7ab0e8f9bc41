"""Headers, paths and queries as bytes: every request is answered, none by a fault of ours."""

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.openapi.operation_schemas import OPERATIONS
from tests.fake_backend import Server, make_body

_NAMES = (
    b"x-request-id", b"x-request-timeout", b"x-include-item-sources", b"authorization",
    b"x-api-key", b"content-type", b"content-length", b"content-encoding", b"transfer-encoding",
    b"origin", b"host", b"access-control-request-method", b"access-control-request-headers",
    b"accept", b"range", b"cookie", b"x-forwarded-for", b"expect", b"upgrade", b"anthropic-version",
    b"if-none-match",
)  # fmt: skip
_VALUES = (
    b"", b"0", b"-1", b"1e400", b"nan", b"inf", b"9" * 5000, b"0x10", b"1_000", b"\xb2",
    b"\xff\xfe", b"Bearer ", b"Bearer a", b"bearer a b", b"Basic YTpi", b"application/json",
    b"application/json;", b"application/json; charset=utf-7", b"text/plain", b"gzip, identity",
    b"chunked", b"null", b"https://evil.example", b"a" * 9000, b"a\tb", b"req-1", b" req-1 ",
    b"req\x851",
)  # fmt: skip
headers = st.lists(
    st.tuples(
        st.sampled_from(_NAMES) | st.from_regex(rb"\A[a-z0-9-]{1,12}\Z"),
        st.sampled_from(_VALUES) | st.binary(max_size=12),
    ),
    max_size=5,
)
paths = st.sampled_from([op.path for op in OPERATIONS]) | st.text(max_size=12).map("/v1/{}".format)
queries = st.binary(max_size=16) | st.sampled_from(
    (
        b"details=1",
        b"details=%31",
        b"limit=1&limit=x",
        b"limit=" + b"9" * 5000,
        b"order=%ff",
        b"after=",
    )
)
SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class Asgi:
    """An application that is asked with requests that no client library would send."""

    def __init__(self) -> None:
        self._app = Server().app
        self._runner = asyncio.Runner()

    def close(self) -> None:
        self._runner.close()

    def ask(
        self, method: str, path: str, headers: Any, query: bytes = b"", body: bytes = b""
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        return self._runner.run(self._ask(method, path, headers, query, body))

    async def _ask(
        self, method: str, path: str, headers: Any, query: bytes, body: bytes
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        sent: list[dict[str, Any]] = []
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> dict[str, Any]:
            for message in messages:
                return message
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
            "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": query,
            "root_path": "", "headers": headers, "client": ("127.0.0.1", 1),
            "server": ("server", 80),
        }  # fmt: skip
        await self._app(scope, receive, send)
        return (
            sent[0]["status"],
            list(sent[0]["headers"]),
            b"".join(message.get("body", b"") for message in sent[1:]),
        )


@pytest.fixture(scope="module")
def asgi() -> Iterator[Asgi]:
    asgi = Asgi()
    yield asgi
    asgi.close()


def check(status: int, answered: list[tuple[bytes, bytes]], body: bytes) -> None:
    assert status < 500, body
    assert not any(b"\r" in part or b"\n" in part for pair in answered for part in pair)
    ids = [value for name, value in answered if name == b"x-request-id"]
    assert len(ids) == 1 and SANE_ID.fullmatch(ids[0])
    assert status == 200 or len(body) < 2000


@given(headers, st.booleans())
@example([(b"content-length", b"9" * 5000)], True)
@example([(b"authorization", b"Bearer \xff\xfe")], True)
def test_any_headers_of_a_request_with_a_body(
    asgi: Asgi, headers: list[tuple[bytes, bytes]], is_json: bool
) -> None:
    if is_json:
        headers = [(b"content-type", b"application/json"), *headers]
    body = orjson.dumps(make_body())
    check(*asgi.ask("POST", "/v1/chat/completions", headers, body=body))


@given(
    st.sampled_from(("GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH", "TRACE", "X")),
    paths,
    headers,
    queries,
    st.binary(max_size=20),
)
def test_any_method_path_and_query(
    asgi: Asgi, method: str, path: str, headers: Any, query: bytes, body: bytes
) -> None:
    check(*asgi.ask(method, path, headers, query, body))
