"""Bytes on a connection that are no proper HTTP, each with the statuses that answer them."""

import json
import random
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from tests.fault.bodies import CHAT, VALID

_STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3}) [ -~]*\r\n")
_HANG_S = 60  # after which a server that neither answers nor closes has hung
_BODY = json.dumps(VALID[CHAT]).encode()
_CLOSE = b"host: a\r\nconnection: close\r\n"
_JSON = b"content-type: application/json\r\n"


@dataclass(frozen=True, slots=True)
class RawRequest:
    """Attributes:
    statuses: of the answers, in order, on a connection that the server then closes.
    leaves: whether the client says that nothing more comes; the server need not answer then.
    is_cut: whether the server closes while more is coming, which may cost the client the answer.
    """

    name: str
    data: bytes
    statuses: tuple[int, ...]
    leaves: bool = False
    is_cut: bool = False


def exchange(host: str, port: int, request: RawRequest) -> tuple[list[int], bytes]:
    """The statuses and all bytes of what the server sends until it closes the connection."""
    received = b""
    with socket.create_connection((host, port), timeout=_HANG_S) as connection:
        try:
            connection.sendall(request.data)
            if request.leaves:
                connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(65536):
                received += data
        except (ConnectionResetError, BrokenPipeError):
            pass  # it has closed before it has read all
    return [int(status) for status in _STATUS.findall(received)], received


def get(path: bytes = b"/health", headers: bytes = _CLOSE, method: bytes = b"GET") -> bytes:
    return method + b" " + path + b" HTTP/1.1\r\n" + headers + b"\r\n"


def post(headers: bytes, body: bytes = _BODY) -> bytes:
    return get(CHAT.encode(), _CLOSE + _JSON + headers, b"POST") + body


def chunked(*chunks: bytes) -> bytes:
    return post(b"transfer-encoding: chunked\r\n", b"".join(chunks))


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def list_raw_requests() -> Iterator[RawRequest]:
    yield from _bad_first_lines()
    yield from _bad_headers()
    yield from _bad_lengths()
    yield from _bad_chunks()
    yield from _odd_paths()
    yield from _several_at_once()
    yield from _other_protocols()


def _bad_first_lines() -> Iterator[RawRequest]:
    yield RawRequest("HTTP 0.9", b"GET /\r\n\r\n", (400,))
    yield RawRequest("no path", b"GET HTTP/1.1\r\nhost: a\r\n\r\n", (400,))
    yield RawRequest("HTTP 9.9", b"GET /nothing HTTP/9.9\r\n" + _CLOSE + b"\r\n", (404,))
    yield RawRequest("no version", b"GET / HTTP\r\nhost: a\r\n\r\n", (400,))
    yield RawRequest("a method that is none", get(method=b"B@D{}"), (400,))
    yield RawRequest("an unknown method", get(method=b"BREW"), (405,))
    yield RawRequest("TRACE", get(method=b"TRACE"), (405,))
    yield RawRequest("DELETE", get(CHAT.encode(), method=b"DELETE"), (405,))
    yield RawRequest("a method of a megabyte", get(method=b"A" * 10**6), (400,), is_cut=True)
    yield RawRequest("a method in small letters", get(method=b"get"), (405,))


def _bad_headers() -> Iterator[RawRequest]:
    yield RawRequest("no host", get(headers=b"connection: close\r\n"), (400,))
    yield RawRequest("two hosts", get(headers=_CLOSE + b"host: b\r\n"), (400,))
    yield RawRequest(
        "a header of a megabyte", get(headers=_CLOSE + b"a: " + b"b" * 10**6), (400,), is_cut=True
    )
    many = b"".join(b"a%d: b\r\n" % index for index in range(100_000))
    yield RawRequest("100,000 headers", get(headers=_CLOSE + many), (400,), is_cut=True)
    yield RawRequest("a space before the colon", get(headers=_CLOSE + b"a : b\r\n"), (400,))
    yield RawRequest("a NUL in a header", get(headers=_CLOSE + b"a: \0\r\n"), (400,))
    yield RawRequest("a header without colon", get(headers=_CLOSE + b"abc\r\n"), (400,))
    yield RawRequest("a header without name", get(headers=_CLOSE + b": b\r\n"), (400,))
    yield RawRequest("a lone carriage return", get(headers=_CLOSE + b"a: b\rc: d\r\n"), (400,))
    yield RawRequest("a continued header", get(headers=_CLOSE + b"a: b\r\n c\r\n"), (200,))
    yield RawRequest("bytes above 127", get(headers=_CLOSE + b"x-request-id: \xff\xfe\r\n"), (200,))
    yield RawRequest("an expectation", get(headers=_CLOSE + b"expect: magic\r\n"), (200,))


def _bad_lengths() -> Iterator[RawRequest]:
    for length in (b"abc", b"-1", b"1.5", b"0x10", b"+5", b"5 5", b""):
        name = f"a length of {length.decode()!r}"
        yield RawRequest(name, post(b"content-length: " + length + b"\r\n"), (400,))
    two = b"content-length: 5\r\ncontent-length: 6\r\n"
    yield RawRequest("two lengths", post(two), (400,))
    yield RawRequest(
        "a length of 20 digits", post(b"content-length: " + b"9" * 20 + b"\r\n"), (413,)
    )
    yield RawRequest(
        "a length of 100 digits", post(b"content-length: " + b"9" * 100 + b"\r\n"), (400,)
    )
    yield RawRequest("a length too short", post(b"content-length: 5\r\n"), (400,))
    yield RawRequest("a length too long", post(b"content-length: 5000\r\n"), (), leaves=True)
    yield RawRequest("no length", post(b""), (400,))


def _bad_chunks() -> Iterator[RawRequest]:
    end = b"0\r\n\r\n"
    yield RawRequest("proper chunks", chunked(chunk(_BODY[:9]), chunk(_BODY[9:]), end), (200,))
    yield RawRequest("chunks of a byte", chunked(*(chunk(bytes([b])) for b in _BODY), end), (200,))
    yield RawRequest("a chunk's length that is none", chunked(b"xyz\r\n", _BODY, end), (400,))
    yield RawRequest("a chunk of 2**80 bytes", chunked(b"f" * 20 + b"\r\n", _BODY), (), leaves=True)
    yield RawRequest("a negative chunk", chunked(b"-5\r\n", _BODY, end), (400,))
    long = chunked(b"1;" + b"a" * 10**6 + b"\r\n", _BODY, end)
    yield RawRequest("a chunk's long extension", long, (400,), is_cut=True)
    yield RawRequest("a chunk without its end", chunked(b"5\r\nabcdefgh", end), (400,))
    trailer = b"0\r\ncontent-length: 5\r\nhost: b\r\n\r\n"
    yield RawRequest("headers behind the body", chunked(chunk(_BODY), trailer), (200,))
    for coding in (
        b"xchunked",
        b"gzip, chunked",
        b"identity",
        b"chunked, identity",
        b"\x0bchunked",
    ):
        headers = b"transfer-encoding: " + coding + b"\r\n"
        yield RawRequest(f"the coding {coding!r}", post(headers, chunk(_BODY) + end), (400,))
    both = b"content-length: 4\r\ntransfer-encoding: chunked\r\n"
    yield RawRequest("a length and chunks", post(both, chunk(_BODY) + end), (400,))
    smuggled = get(b"/metrics")
    yield RawRequest(
        "a request in what a length hides", post(both, chunk(_BODY) + end + smuggled), (400,)
    )


def _odd_paths() -> Iterator[RawRequest]:
    for path in (
        b"/../../etc/passwd",
        b"/%2e%2e/%2e%2e/etc/passwd",
        b"/..%5c..%5cetc",
        b"//v1//models",
        b"/v1/models%00",
        b"/%ff%fe",
        b"/%",
        b"/%zz",
        b"/v1/models/../models",
        b"/" + b"a" * 50_000,
        b"/;/health",
        b"/health/",
    ):
        yield RawRequest(f"the path {path[:24].decode()}", get(path), (404,))
    yield RawRequest("a path of a megabyte", get(b"/" + b"a" * 10**6), (400,), is_cut=True)
    yield RawRequest("a path with a space", get(b"/a b"), (400,))
    yield RawRequest("a path of raw bytes", get(b"/\xff"), (400,))
    yield RawRequest("a path of another host", get(b"http://127.0.0.1:1/health"), (404,))
    yield RawRequest("CONNECT", get(b"127.0.0.1:1", method=b"CONNECT"), (404,))
    yield RawRequest("a star", get(b"*", method=b"OPTIONS"), (404,))
    yield RawRequest("a long query", get(b"/health?" + b"a=b&" * 10_000), (200,))


def _several_at_once() -> Iterator[RawRequest]:
    stay, last = get(headers=b"host: a\r\n"), get()
    yield RawRequest("five requests at once", stay * 4 + last, (200,) * 5)
    yield RawRequest("a hundred requests at once", stay * 99 + last, (200,) * 100)
    yield RawRequest("a request and noise", stay + b"\0\xff\r\n\r\n", (200, 400))
    yield RawRequest("a request and the half of one", stay + last[:20], (200,), leaves=True)


def _other_protocols() -> Iterator[RawRequest]:
    yield RawRequest("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (404, 400))
    upgrade = b"connection: upgrade\r\nhost: a\r\nupgrade: "
    yield RawRequest("WebSocket", get(headers=upgrade + b"websocket\r\n" + _CLOSE[9:]), (200,))
    hello = b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(505)
    yield RawRequest("TLS", hello, (400,))
    yield RawRequest("nothing", b"", (), leaves=True)
    yield RawRequest("NULs", bytes(200_000), (400,), is_cut=True)
    noise = random.Random(0).randbytes(200_000)
    yield RawRequest("noise", noise, (400,), is_cut=True)
    yield RawRequest(
        "a serialised object", b"\xac\xed\0\x05sr\0\x11java.util.HashMap", (), leaves=True
    )
    yield RawRequest("SMTP", b"EHLO a\r\nMAIL FROM:<a>\r\n\r\n", (400,))
    yield RawRequest("SSH", b"SSH-2.0-a\r\n\r\n", (400,))
    yield RawRequest("an endless first line", b"A" * 10**6, (400,), is_cut=True)


RAW_REQUESTS = tuple(list_raw_requests())
