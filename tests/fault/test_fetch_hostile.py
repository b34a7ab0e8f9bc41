"""The media fetcher against hosts that want what they must not have: other hosts, time, secrets."""

import asyncio
import base64
import random
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from multimodal.errors import MediaError, MediaTooLarge
from multimodal.options import MediaOptions
from server.address_check import IPAddress, is_public_address
from server.conversation import MediaSource
from server.local_media import LocalMedia
from server.media_fetch import FetchFailed, MediaFetcher, decode_data_url
from server.media_refs import load_media_refs
from server.media_url import UrlNotAllowed, UrlRules
from server.settings import MediaSettings
from tests.media_servers import (
    BODY,
    LOOPBACK,
    Answer,
    MakeFetcher,
    Resolver,
    Servers,
    answer,
    assert_error,
    fetch,
    made_fetchers,
    raw,
    redirect,
    running_servers,
)

pytestmark = pytest.mark.alone

HANG_S = 60


@pytest.fixture
async def servers() -> AsyncIterator[Servers]:
    async with running_servers() as running:
        yield running


@pytest.fixture
def resolver() -> Resolver:
    return Resolver()


@pytest.fixture
async def make_fetcher(resolver: Resolver) -> AsyncIterator[MakeFetcher]:
    async with made_fetchers(resolver) as make:
        yield make


# ---- where to


@pytest.mark.parametrize(
    ("url", "is_denied"),
    [
        ("https://example.com/a", True),
        ("https://EXAMPLE.com:8443/a", True),
        ("https://sub.example.com/a", False),
        ("https://a.cdn.test/a", True),
        ("https://a.b.cdn.test/a", True),
        ("https://cdn.test/a", False),
        ("https://xn--bcher-kva.example/a", True),
        ("https://BÜCHER.example/a", True),
        ("https://8.8.8.8/a", True),
        ("https://[2606:4700::1111]/a", True),
        ("https://[2606:4700:0:0:0:0:0:1111]/a", True),
        ("https://[2606:4700::0.0.17.17]/a", True),
        ("https://other.test/a", False),
    ],
)
def test_denied_domains_are_exact_or_wildcards(url: str, is_denied: bool) -> None:
    denied = ("Example.com", "*.cdn.test", "bücher.example", "8.8.8.8", "2606:4700::1111")
    rules = UrlRules(http_allowed=False, allowed_domains=(), denied_domains=denied)
    if is_denied:
        with pytest.raises(UrlNotAllowed, match="denied domains"):
            rules.parse(url)
    else:
        rules.parse(url)


def test_a_domain_that_is_allowed_and_denied_is_denied() -> None:
    rules = UrlRules(
        http_allowed=False, allowed_domains=("*.example.com",), denied_domains=("a.example.com",)
    )
    rules.parse("https://b.example.com/")
    with pytest.raises(UrlNotAllowed, match="denied domains"):
        rules.parse("https://a.example.com/")


async def test_a_redirect_to_a_denied_domain_is_refused(
    servers: Servers, make_fetcher: MakeFetcher, resolver: Resolver
) -> None:
    victim = await servers.start(answer(b"secret"))
    server = await servers.start(redirect(f"http://other.test:{victim.port}/"))
    fetcher = make_fetcher(denied_domains=("*.test", "other.test"), allowed_domains=())
    url = f"http://media.example:{server.port}/"
    await assert_error(fetcher, url, UrlNotAllowed, "url_not_allowed")
    assert (len(server.heads), len(victim.heads)) == (1, 0)
    assert resolver.questions == ["media.example"]


METADATA = {
    "metadata.google.internal": ["169.254.169.254"],
    "instance-data.ec2.internal": ["fd00:ec2::254"],
    "metadata.azure.test": ["168.63.129.16"],
    "metadata.alibaba.test": ["100.100.100.200"],
    "metadata.oracle.test": ["192.0.0.192"],
    "mapped.test": ["::ffff:169.254.169.254"],
    "nat64.test": ["64:ff9b::a9fe:a9fe"],
    "local-nat64.test": ["64:ff9b:1::a9fe:a9fe"],
    "6to4.test": ["2002:a9fe:a9fe::1"],
    "teredo.test": ["2001:0:a9fe:a9fe::1"],
    "link-local.test": ["fe80::1%eth0"],
    "compatible.test": ["::169.254.169.254"],
    "mixed.test": ["8.8.8.8", "169.254.169.254"],
    "mixed6.test": ["2606:4700::1111", "fe80::1"],
}


@pytest.mark.parametrize("host", METADATA)
@pytest.mark.parametrize("way", ["at once", "by a redirect"])
async def test_no_name_leads_to_the_inside(
    servers: Servers, make_fetcher: MakeFetcher, host: str, way: str
) -> None:
    asked: list[str] = []

    async def resolve(name: str, port: int) -> tuple[IPAddress, ...]:
        asked.append(name)
        return tuple(map(ip_address, METADATA.get(name, ["127.0.0.1"])))

    server = await servers.start(redirect(f"http://{host}/latest/meta-data"))
    url = f"http://{host}/latest" if way == "at once" else f"http://media.test:{server.port}/"
    fetcher = make_fetcher(resolve=resolve)
    await assert_error(fetcher, url, UrlNotAllowed, "url_not_allowed")
    assert asked[-1] == host


@pytest.mark.parametrize(
    "network", ["10.0.0.0", "127.0.0.1", "169.254.169.254", "192.168.1.1", "100.64.0.1"]
)
def test_no_ipv6_address_that_holds_a_private_ipv4_address_is_public(network: str) -> None:
    inside = int(ip_address(network))
    for prefix, shift in (
        ("::", 0),
        ("::ffff:0:0", 0),
        ("::ffff:0:0:0", 0),
        ("64:ff9b::", 0),
        ("64:ff9b:1::", 0),
        ("2002::", 80),
        ("2001::", 64),
    ):
        address = type(ip_address("::"))(int(ip_address(prefix)) | inside << shift)
        assert not is_public_address(address), address


@pytest.mark.parametrize(
    "target",
    [
        "https://media.test@127.0.0.1/",
        "http://media.test:80@127.0.0.1/",
        "http://media.test%40127.0.0.1/",
        "http://127.0.0.1%2f.media.test/",
        "http://media.test\\.127.0.0.1/",
        "http://media.test\t.other.test/",
        "http://0300.0250.0.1/",
        "http://0xc0a80001/",
        "http://3232235521/",
        "http://127.0.0.1./",
        "http://localhost./",
        "http://[::ffff:7f00:1%25lo]/",
        "http://[fe80::1%25eth0]/",
        "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ。/",
        "http://media.test\u202e/",
        "http://media.test\u00ad@x/",
        "http://x\u2100y/",
    ],
)
async def test_tricks_with_the_authority_connect_to_nothing(
    make_fetcher: MakeFetcher, resolver: Resolver, target: str
) -> None:
    await assert_error(make_fetcher(), target, UrlNotAllowed, "url_not_allowed")
    assert resolver.questions == []


async def test_nothing_that_a_host_sets_goes_to_the_next_one(
    servers: Servers, make_fetcher: MakeFetcher
) -> None:
    last = await servers.start(answer())
    location = f"Location: http://other.test:{last.port}/b"
    cookie = "Set-Cookie: session=s3cr3t; Domain=test; Path=/"
    server = await servers.start(
        answer(b"", "302 Found", location, cookie, "WWW-Authenticate: Basic realm=a")
    )
    fetcher = make_fetcher()
    for _ in range(2):
        assert await fetch(fetcher, f"http://media.test:{server.port}/a?key=s3cr3t") == BODY
    for head in last.heads:
        names = {line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:] if line}
        assert names == {b"host", b"accept", b"accept-encoding", b"user-agent"}
        assert b"s3cr3t" not in head


async def test_three_redirects_are_followed_by_default_and_a_fourth_is_not(
    servers: Servers, make_fetcher: MakeFetcher
) -> None:
    most = MediaSettings().max_redirects
    assert most == 3
    steps = [redirect(f"/{index}") for index in range(most)]
    server = await servers.start(*steps, answer())
    url = f"http://media.test:{server.port}/"
    assert await fetch(make_fetcher(max_redirects=most), url) == BODY
    server = await servers.start(*steps, redirect("/again"), answer())
    url = f"http://media.test:{server.port}/"
    await assert_error(make_fetcher(max_redirects=most), url, FetchFailed, "fetch_failed")
    assert len(server.heads) == most + 1


# ---- for how long


async def test_a_slow_host_leaves_slots_to_the_others(
    servers: Servers, make_fetcher: MakeFetcher
) -> None:
    slow = await servers.start(raw(b"", then_wait=True))
    quick = await servers.start(answer())
    fetcher = make_fetcher(max_parallel=3, max_parallel_per_host=2)
    stuck = [
        asyncio.create_task(fetch(fetcher, f"http://slow.test:{slow.port}/")) for _ in range(8)
    ]
    while len(slow.heads) < 2:
        await asyncio.sleep(0.01)
    async with asyncio.timeout(HANG_S):
        assert await fetch(fetcher, f"http://quick.test:{quick.port}/") == BODY
    assert slow.max_open == 2
    for task in stuck:
        task.cancel()
    await asyncio.gather(*stuck, return_exceptions=True)
    assert not fetcher._slots._hosts


async def test_a_host_that_is_redirected_to_has_its_own_slots(
    servers: Servers, make_fetcher: MakeFetcher
) -> None:
    """Many names that all lead to one host do not get around its limit."""
    slow = await servers.start(raw(b"", then_wait=True))
    server = await servers.start(redirect(f"http://slow.test:{slow.port}/"))
    fetcher = make_fetcher(max_parallel=4, max_parallel_per_host=1)
    stuck = [
        asyncio.create_task(fetch(fetcher, f"http://n{index}.test:{server.port}/"))
        for index in range(4)
    ]
    while len(server.heads) < 4:
        await asyncio.sleep(0.01)
    while not slow.heads:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    assert len(slow.heads) == 1
    for task in stuck:
        task.cancel()
    await asyncio.gather(*stuck, return_exceptions=True)


async def test_waiting_for_the_slots_of_a_host_is_part_of_the_total_time(
    servers: Servers, make_fetcher: MakeFetcher
) -> None:
    slow = await servers.start(raw(b"", then_wait=True))
    fetcher = make_fetcher(max_parallel=4, max_parallel_per_host=1, total_timeout_s=0.3)
    url = f"http://slow.test:{slow.port}/"
    errors = await asyncio.gather(*(fetch(fetcher, url) for _ in range(3)), return_exceptions=True)
    assert [getattr(error, "code", None) for error in errors] == ["fetch_timeout"] * 3
    assert len(slow.heads) == 1


def endless(block: bytes, first: bytes = b"") -> Answer:
    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        while True:
            writer.write(block * (8192 // len(block) + 1))
            await writer.drain()

    return write


@pytest.mark.parametrize(
    ("first", "block"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"X-Name: value\r\n"),
        (b"HTTP/1.1 200 OK\r\nX-Name: ", b"v"),
        (b"HTTP/1.1 200 ", b"O"),
        (b"", b"\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"00000000"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"extension"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X-Trailer: a\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    ],
    ids=[
        "continue",
        "hints",
        "headers",
        "value",
        "reason",
        "lines",
        "length",
        "extension",
        "trailers",
        "tiny chunks",
    ],
)
async def test_what_never_ends_before_or_around_a_body_is_given_up_early(
    servers: Servers, make_fetcher: MakeFetcher, first: bytes, block: bytes
) -> None:
    """Not by the total time: parsing it would hold up all other requests meanwhile."""
    server = await servers.start(endless(block, first))
    fetcher = make_fetcher(total_timeout_s=HANG_S)
    url = f"http://media.test:{server.port}/"
    await assert_error(fetcher, url, FetchFailed, "fetch_failed", max_bytes=2**30)


async def test_a_second_fetch_on_a_connection_has_the_same_bound(
    servers: Servers, make_fetcher: MakeFetcher
) -> None:
    """The connection is kept after a large body, which is no head."""
    body = bytes(1_000_000)
    wrote: list[bytes] = []

    async def write(writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        writer.write(head + body)
        wrote.append(head)
        await asyncio.sleep(0.2)  # the second request has come
        await endless(b"HTTP/1.1 100 Continue\r\n\r\n")(writer)

    server = await servers.start(write)
    fetcher = make_fetcher(total_timeout_s=HANG_S)
    url = f"http://media.test:{server.port}/"
    assert await fetch(fetcher, url, len(body)) == body
    await assert_error(fetcher, url, FetchFailed, "fetch_failed")


async def test_a_few_hints_before_the_answer_are_passed_over(
    servers: Servers, make_fetcher: MakeFetcher
) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 5
    body = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    server = await servers.start(raw(hints + body))
    assert await fetch(make_fetcher(), f"http://media.test:{server.port}/") == b"ok"


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: " + b"9" * 5000,
        b"Content-Length: 99999999999999999999",
        b"Content-Length: -1",
        b"Content-Length: 0x10",
        b"Content-Length: 5\r\nContent-Length: 6",
        b"Transfer-Encoding: gzip, chunked",
        b"Content-Encoding: br",
        b"Content-Encoding: identity, gzip",
        b"Location: http://other.test/\r\nLocation: http://third.test/",
        b"Content-Length: 5\x00",
        b"Name\x00: a",
        b": a",
    ],
)
async def test_odd_headers_are_an_error_or_nothing(
    servers: Servers, make_fetcher: MakeFetcher, headers: bytes
) -> None:
    server = await servers.start(raw(b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n\r\nabcde"))
    try:
        body = await fetch(make_fetcher(), f"http://media.test:{server.port}/")
    except MediaError as error:
        assert error.code in ("fetch_failed", "media_too_large")
    else:
        assert body == b"abcde"


# ---- what is told


BODY_SECRET, PATH_SECRET, HOST_SECRET = b"b0dy-s3cr3t", "p4th-s3cr3t", "h0st-s3cr3t"
SECRETS = ("s3cr3t", "127.0.0.1", "10.9.8.7", "hunter2", "other.example", "/srv")


def play(case: str) -> Answer:
    lengths = {"too large": "9000000", "truncated": "1000"}
    body = BODY_SECRET * 3
    if case in lengths:
        length = lengths[case].encode()
        return raw(b"HTTP/1.1 200 " + BODY_SECRET + b"\r\nContent-Length: " + length + b"\r\n\r\nx")
    if case.isdigit():
        return answer(body, f"{case} {BODY_SECRET.decode()}", "X-Detail: s3cr3t")
    return {
        "no http": raw(BODY_SECRET + b"\r\n\r\n"),
        "nothing": raw(b""),
        "encoded": answer(body, "200 OK", f"Content-Encoding: {BODY_SECRET.decode()}"),
        "silent": raw(b"", then_wait=True),
        "loop": redirect(f"/{PATH_SECRET}"),
        "inside": redirect(f"http://inside.{HOST_SECRET}.test/{PATH_SECRET}"),
        "malformed": redirect(f"http://[{HOST_SECRET}/{PATH_SECRET}"),
        "file": redirect(f"file:///{PATH_SECRET}"),
        "user": redirect(f"http://user:hunter2@{HOST_SECRET}.test/"),
        "bad header": raw(b"HTTP/1.1 200 OK\r\n" + BODY_SECRET + b"\r\n\r\n"),
    }[case]


CASES = ["no http", "nothing", "encoded", "silent", "loop", "inside", "malformed", "file", "user"]
CASES += ["bad header", "too large", "truncated", "401", "403", "404", "500", "503", "301"]


@pytest.mark.parametrize("case", CASES)
async def test_no_error_tells_what_a_host_said_or_where_it_is(
    servers: Servers, make_fetcher: MakeFetcher, resolver: Resolver, case: str
) -> None:
    resolver.answers[f"inside.{HOST_SECRET}.test"] = ["10.9.8.7"]
    server = await servers.start(play(case))
    fetcher = make_fetcher(total_timeout_s=1.0, max_redirects=1)
    url = f"http://{HOST_SECRET}.test:{server.port}/{PATH_SECRET}?token=s3cr3t#s3cr3t"
    with pytest.raises(MediaError) as caught:
        await fetch(fetcher, url, max_bytes=1000)
    told = f"{caught.value.message} {caught.value.code} {caught.value.param}"
    assert not [secret for secret in (*SECRETS, str(server.port)) if secret in told], told


def make_odd_url(rng: random.Random) -> str:
    """Anything that looks a bit like a URL, with what must not be told in all its parts."""
    schemes = ("https://", "http://", "HTTPS:/", "ftp://", "file:///", "data:", "//", "", "https:")
    hosts = ("h0st-s3cr3t.test", "10.9.8.7", "[fe80::s3cr3t]", "user:hunter2@s3cr3t", "", "0x7f.1")
    ports = ("", ":80", ":s3cr3t", ":99999")
    paths = ("/p4th-s3cr3t", "?s3cr3t", ";base64,s3cr3t!", "#s3cr3t", "\\s3cr3t", "/../s3cr3t", "")
    odd = ("", "", "", "\x00", "\n", " ", "%00", "\u202e", "é")
    pieces = (rng.choice(schemes), rng.choice(hosts), rng.choice(ports), rng.choice(paths))
    return "".join(piece + rng.choice(odd) for piece in pieces)


async def test_no_error_repeats_a_url_of_any_kind(tmp_path: Path) -> None:
    rng = random.Random(0)

    async def resolve(host: str, port: int) -> tuple[IPAddress, ...]:
        return (ip_address("10.9.8.7"),)

    fetcher = MediaFetcher(
        http_allowed=False,
        allowed_domains=(),
        connect_timeout_s=1,
        total_timeout_s=1,
        max_redirects=1,
        max_parallel=1,
        resolve=resolve,
        local=LocalMedia(tmp_path, 1),
    )
    messages = set()
    for _ in range(3000):
        source = MediaSource("image", (make_odd_url(rng),), MediaOptions(), "messages[0]")
        with pytest.raises(MediaError) as caught:
            await load_media_refs([source], fetcher, MediaSettings())
        assert caught.value.param == "messages[0]"
        messages.add(caught.value.message)
    await fetcher.close()
    assert len(messages) > 6  # that many ways were tried
    for message in messages:
        assert not [secret for secret in (*SECRETS, str(tmp_path)) if secret in message], message


def test_no_error_repeats_a_data_url() -> None:
    rng = random.Random(1)
    payload = base64.b64encode(b"s3cr3t" * 10).decode()
    starts = (
        "data:image/png;base64,",
        "data:image/png,",
        "data:;base64,",
        "data:video/jpeg;base64,",
    )
    for _ in range(2000):
        url = rng.choice(starts) + payload
        cut = rng.randrange(len(url))
        url = url[:cut] + rng.choice(("!", ",", "=", "\n", "é", "")) + url[cut + 1 :]
        try:
            decode_data_url(url, max_bytes=rng.choice((3, 1000)), max_frames=2, param="p")
        except MediaError as error:
            assert len(error.message) < 100
            assert payload[:8] not in error.message and payload[-8:] not in error.message


async def test_a_body_over_what_is_left_of_the_request_is_cut(
    servers: Servers, make_fetcher: MakeFetcher
) -> None:
    """Two media that are each small enough, and together too large."""
    server = await servers.start(answer())
    url = f"http://media.test:{server.port}/"
    sources = [MediaSource("image", (url,), MediaOptions(), f"m[{index}]") for index in range(2)]
    settings = MediaSettings(max_request_bytes=len(BODY) + 1)
    with pytest.raises(MediaTooLarge) as caught:
        await load_media_refs(sources, make_fetcher(), settings)
    assert caught.value.code == "media_too_large"


def test_the_loopback_address_is_let_through_in_tests_only() -> None:
    assert not is_public_address(LOOPBACK)
