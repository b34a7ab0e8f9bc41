import asyncio
import threading

import pytest
from starlette.requests import ClientDisconnect, Request

from server.errors import BodyTimeout, PayloadTooLarge, UnsupportedContentType
from server.request_io import (
    parse_aside,
    read_json_body,
    run_while_connected,
    with_write_timeout,
)

JSON = {"content-type": "application/json; charset=utf-8"}


def make_request(*pieces: bytes, **headers: str) -> tuple[Request, list[bytes]]:
    """A request whose body comes in pieces, and the list of those not read yet."""
    rest = list(pieces)

    async def receive():
        if not rest:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": rest.pop(0), "more_body": bool(rest)}

    raw = [
        (key.replace("_", "-").encode(), value.encode("latin-1")) for key, value in headers.items()
    ]
    return Request({"type": "http", "headers": raw}, receive), rest


async def test_body_is_put_together():
    request, _ = make_request(b'{"a"', b":1}", **JSON)
    assert await read_json_body(request, 7, timeout_s=60) == b'{"a":1}'


async def test_declared_length_over_the_limit_is_refused_unread():
    request, rest = make_request(b"x" * 100, content_length="100", **JSON)
    with pytest.raises(PayloadTooLarge, match="99 bytes"):
        await read_json_body(request, 99, timeout_s=60)
    assert rest


async def test_reading_stops_at_the_limit_whatever_was_declared():
    request, rest = make_request(*[b"x" * 10] * 100, content_length="1", **JSON)
    with pytest.raises(PayloadTooLarge):
        await read_json_body(request, 25, timeout_s=60)
    assert len(rest) == 97


@pytest.mark.parametrize("content_length", ["²", "9" * 5000, "", "x"])
async def test_declared_length_that_is_no_number_is_passed_over(content_length):
    request, _ = make_request(b"{}", content_length=content_length, **JSON)
    assert await read_json_body(request, 99, timeout_s=60) == b"{}"


async def test_body_that_does_not_arrive_in_time_is_given_up():
    request = Request(
        {"type": "http", "headers": [(b"content-type", b"application/json")]},
        asyncio.Event().wait,
    )
    with pytest.raises(BodyTimeout, match=r"0\.01 s"):
        await read_json_body(request, 99, timeout_s=0.01)


async def test_body_that_is_compressed_is_refused():
    request, rest = make_request(b"{}", content_encoding="gzip", **JSON)
    with pytest.raises(UnsupportedContentType, match="compressed"):
        await read_json_body(request, 99, timeout_s=60)
    assert rest


async def test_client_that_does_not_read_is_taken_for_gone():
    async def send(message):
        await asyncio.Event().wait()

    with pytest.raises(ClientDisconnect):
        await with_write_timeout(send, 0.01)({"type": "http.response.body"})


async def test_client_that_reads_gets_every_message():
    sent = []

    async def send(message):
        sent.append(message)

    await with_write_timeout(send, 60)({"type": "http.response.body"})
    assert sent == [{"type": "http.response.body"}]


async def test_client_that_reads_slowly_gets_every_message():
    sent = []

    async def send(message):
        for _ in range(3):
            await asyncio.sleep(0.001)
        sent.append(message)

    await with_write_timeout(send, 60)({"type": "http.response.body"})
    assert sent == [{"type": "http.response.body"}]


async def test_the_end_of_a_slow_client_reaches_what_sends():
    ended = []

    async def send(message):
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(message)

    with pytest.raises(ClientDisconnect):
        await with_write_timeout(send, 0.01)({"type": "http.response.body"})
    assert ended


@pytest.mark.parametrize("num_waits", [0, 1])
async def test_what_goes_wrong_in_sending_is_passed_on(num_waits):
    async def send(message):
        for _ in range(num_waits):
            await asyncio.sleep(0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await with_write_timeout(send, 60)({"type": "http.response.body"})


@pytest.mark.parametrize("content_type", ["text/plain", "", "application/jsonp"])
def test_body_that_is_not_declared_as_json_is_refused(content_type):
    request, _ = make_request(b"{}", content_type=content_type)
    with pytest.raises(UnsupportedContentType):
        asyncio.run(read_json_body(request, 99, timeout_s=60))


async def test_client_that_leaves_half_way_is_noticed():
    request, _ = make_request(**JSON)
    with pytest.raises(ClientDisconnect):
        await read_json_body(request, 99, timeout_s=60)


async def never_disconnect():
    await asyncio.Event().wait()


async def test_work_ends_normally_while_the_client_stays():
    done = []

    async def work():
        done.append(True)

    await run_while_connected(never_disconnect, work())
    assert done


async def test_failure_of_the_work_is_passed_on():
    async def work():
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await run_while_connected(never_disconnect, work())


async def test_disconnect_cancels_the_work_and_waits_for_its_cleanup():
    cleaned_up = []

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned_up.append(True)

    async def disconnect():
        await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    with pytest.raises(ClientDisconnect):
        await run_while_connected(disconnect, work())
    assert cleaned_up


async def test_cancellation_from_outside_reaches_the_work():
    cancelled = []
    started = asyncio.Event()

    async def work():
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    outer = asyncio.create_task(run_while_connected(never_disconnect, work()))
    await started.wait()
    outer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await outer
    assert cancelled


@pytest.mark.parametrize(("num_bytes", "is_aside"), [(1000, False), (2_000_000, True)])
async def test_a_long_body_is_parsed_in_a_thread(num_bytes: int, is_aside: bool) -> None:
    def parse(body: bytearray, what: str, *, more: int) -> tuple[str, int, bool]:
        return what, more, threading.current_thread() is not threading.main_thread()

    found = await parse_aside(parse, bytearray(num_bytes), "it", more=3)
    assert found == ("it", 3, is_aside)


async def test_others_run_while_a_long_body_is_parsed() -> None:
    has_run = threading.Event()

    def parse(body: bytearray) -> bool:
        return has_run.wait(120)

    asyncio.get_running_loop().call_soon(has_run.set)
    assert await parse_aside(parse, bytearray(2_000_000))
