"""The media fetcher against real servers on 127.0.0.1 that are slow, large or wrong."""

import asyncio
import contextvars
import datetime
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from multimodal.errors import MediaTooLarge
from multimodal.fair_threads import CURRENT_CLIENT
from server.address_check import IPAddress
from server.errors import Overloaded
from server.media_fetch import FetchFailed
from server.media_url import UrlNotAllowed
from tests.media_servers import (
    BODY,
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


async def test_a_body_is_fetched_byte_for_byte(servers: Servers, make_fetcher: MakeFetcher) -> None:
    server = await servers.start(answer())
    assert await fetch(make_fetcher(), f"http://media.test:{server.port}/a.png?b=1#c") == BODY


async def test_the_request_carries_the_name_and_nothing_of_the_environment(
    servers: Servers, make_fetcher: MakeFetcher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine media.test login me password secret")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    server = await servers.start(answer(BODY, "200 OK", "Set-Cookie: a=b"))
    fetcher = make_fetcher()
    for _ in range(2):
        await fetch(fetcher, f"http://media.test:{server.port}/a%20b.png?q=%2F")
    lines = server.heads[1].decode().strip().split("\r\n")
    assert lines[0] == "GET /a%20b.png?q=%2F HTTP/1.1"
    assert set(lines[1:]) == {
        f"Host: media.test:{server.port}",
        "Accept: */*",
        "Accept-Encoding: identity",
        "User-Agent: qwen3vl-serve",
    }


async def test_a_name_is_resolved_once_and_the_checked_address_is_connected_to(
    servers: Servers, make_fetcher: MakeFetcher, resolver: Resolver
) -> None:
    """DNS rebinding: a second question would lead to the private network."""
    server = await servers.start(answer())
    resolver.answers["media.test"] = ["127.0.0.1", "10.0.0.1"]
    assert await fetch(make_fetcher(), f"http://media.test:{server.port}/") == BODY
    assert resolver.questions == ["media.test"]


async def test_redirects_are_followed(servers: Servers, make_fetcher: MakeFetcher) -> None:
    server = await servers.start(redirect("/next?x=1#y"), redirect("other/a.png"), answer())
    assert await fetch(make_fetcher(), f"http://media.test:{server.port}/first") == BODY
    targets = [head.split(b" ")[1] for head in server.heads]
    assert targets == [b"/first", b"/next?x=1", b"/other/a.png"]


async def test_too_many_redirects_are_refused(servers: Servers, make_fetcher: MakeFetcher) -> None:
    server = await servers.start(redirect("/again"))
    url = f"http://media.test:{server.port}/"
    message = await assert_error(make_fetcher(), url, FetchFailed, "fetch_failed")
    assert "more than 2 times" in message
    assert len(server.heads) == 3


async def test_each_redirect_is_resolved_and_checked_anew(
    servers: Servers, make_fetcher: MakeFetcher, resolver: Resolver
) -> None:
    victim = await servers.start(answer(b"secret"))
    server = await servers.start(redirect(f"http://inside.test:{victim.port}/"))
    resolver.answers["inside.test"] = ["192.168.0.7"]
    url = f"http://media.test:{server.port}/"
    message = await assert_error(make_fetcher(), url, UrlNotAllowed, "url_not_allowed")
    assert message == "the host of the media URL has no public address"
    assert resolver.questions == ["media.test", "inside.test"]
    assert victim.heads == []


@pytest.mark.parametrize(
    "location",
    [
        "http://10.0.0.1/",
        "http://[::1]/",
        "http://2130706433/",
        "http://user:password@media.test/",
        "file:///etc/passwd",
        "//169.254.169.254/latest",
        "http://[",
        "/\\169.254.169.254/",
        "http:\\\\169.254.169.254/",
    ],
)
async def test_a_redirect_to_a_forbidden_place_is_refused(
    servers: Servers, make_fetcher: MakeFetcher, resolver: Resolver, location: str
) -> None:
    resolver.answers |= {"10.0.0.1": ["10.0.0.1"], "::1": ["::1"]}
    resolver.answers["169.254.169.254"] = ["169.254.169.254"]
    server = await servers.start(redirect(location), answer(b"secret"))
    url = f"http://media.test:{server.port}/"
    await assert_error(make_fetcher(), url, UrlNotAllowed, "url_not_allowed")
    assert len(server.heads) == 1


async def test_a_redirect_out_of_the_allowed_domains_is_refused(
    servers: Servers, make_fetcher: MakeFetcher
) -> None:
    victim = await servers.start(answer(b"secret"))
    server = await servers.start(redirect(f"http://other.test:{victim.port}/"))
    fetcher = make_fetcher(allowed_domains=("media.test",))
    url = f"http://media.test:{server.port}/"
    await assert_error(fetcher, url, UrlNotAllowed, "url_not_allowed")
    assert (len(server.heads), len(victim.heads)) == (1, 0)


@pytest.mark.parametrize("status", ["404 Not Found", "500 Oops", "204 No Content", "206 Partial"])
async def test_a_status_other_than_200_is_an_error_without_detail(
    servers: Servers, make_fetcher: MakeFetcher, status: str
) -> None:
    body = b"" if status.startswith("204") else b"internal detail"
    server = await servers.start(answer(body, status))
    url = f"http://media.test:{server.port}/"
    message = await assert_error(make_fetcher(), url, FetchFailed, "fetch_failed")
    assert message == f"the media URL answered HTTP {status[:3]}"


async def test_a_content_encoding_is_refused(servers: Servers, make_fetcher: MakeFetcher) -> None:
    server = await servers.start(answer(b"bomb", "200 OK", "Content-Encoding: gzip"))
    url = f"http://media.test:{server.port}/"
    await assert_error(make_fetcher(), url, FetchFailed, "fetch_failed")


async def test_a_declared_length_over_the_limit_is_refused_before_the_body(
    servers: Servers, make_fetcher: MakeFetcher
) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n"
    server = await servers.start(raw(head, then_wait=True))
    url = f"http://media.test:{server.port}/"
    await assert_error(make_fetcher(), url, MediaTooLarge, "media_too_large")


@pytest.mark.parametrize("framing", ["chunked", "until-close"])
async def test_an_undeclared_body_is_cut_at_the_limit(
    servers: Servers, make_fetcher: MakeFetcher, framing: str
) -> None:
    num_sent = 0

    async def flood(writer: asyncio.StreamWriter) -> None:
        nonlocal num_sent
        encoding = "Transfer-Encoding: chunked\r\n" if framing == "chunked" else ""
        writer.write(f"HTTP/1.1 200 OK\r\n{encoding}\r\n".encode())
        block = bytes(65536)
        while True:
            writer.write(b"10000\r\n" + block + b"\r\n" if framing == "chunked" else block)
            await writer.drain()
            num_sent += len(block)

    server = await servers.start(flood)
    url = f"http://media.test:{server.port}/"
    message = await assert_error(make_fetcher(), url, MediaTooLarge, "media_too_large", 100_000)
    assert "100000 bytes" in message
    assert num_sent < 64 * 1024**2  # what socket buffers hold, not what the server would send


async def test_a_body_of_exactly_the_limit_is_accepted(
    servers: Servers, make_fetcher: MakeFetcher
) -> None:
    server = await servers.start(answer())
    url = f"http://media.test:{server.port}/"
    assert await fetch(make_fetcher(), url, max_bytes=len(BODY)) == BODY
    await assert_error(make_fetcher(), url, MediaTooLarge, "media_too_large", len(BODY) - 1)


async def test_a_truncated_body_is_an_error(servers: Servers, make_fetcher: MakeFetcher) -> None:
    server = await servers.start(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"))
    url = f"http://media.test:{server.port}/"
    await assert_error(make_fetcher(), url, FetchFailed, "fetch_failed")


@pytest.mark.parametrize(
    "reply", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 50_000]
)
async def test_what_is_not_http_is_an_error(
    servers: Servers, make_fetcher: MakeFetcher, reply: bytes
) -> None:
    server = await servers.start(raw(reply))
    url = f"http://media.test:{server.port}/"
    message = await assert_error(make_fetcher(), url, FetchFailed, "fetch_failed")
    assert "SSH" not in message


async def test_a_refused_connection_is_an_error(
    servers: Servers, make_fetcher: MakeFetcher
) -> None:
    server = await servers.start(answer())
    await servers.close()
    url = f"http://media.test:{server.port}/"
    await assert_error(make_fetcher(), url, FetchFailed, "fetch_failed")


async def test_a_body_that_trickles_runs_into_the_total_limit(
    servers: Servers, make_fetcher: MakeFetcher
) -> None:
    async def trickle(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    server = await servers.start(trickle)
    fetcher = make_fetcher(total_timeout_s=0.3)
    url = f"http://media.test:{server.port}/"
    await assert_error(fetcher, url, FetchFailed, "fetch_timeout")


async def test_a_server_that_never_answers_runs_into_the_total_limit(
    servers: Servers, make_fetcher: MakeFetcher
) -> None:
    server = await servers.start(raw(b"", then_wait=True))
    fetcher = make_fetcher(total_timeout_s=0.3)
    url = f"http://media.test:{server.port}/"
    await assert_error(fetcher, url, FetchFailed, "fetch_timeout")


async def test_a_slow_resolver_runs_into_the_total_limit(make_fetcher: MakeFetcher) -> None:
    async def resolve(host: str, port: int) -> tuple[IPAddress, ...]:
        await asyncio.Event().wait()
        raise AssertionError

    fetcher = make_fetcher(total_timeout_s=0.1, resolve=resolve)
    await assert_error(fetcher, "http://media.test/", FetchFailed, "fetch_timeout")


async def test_fetches_under_way_are_bounded(servers: Servers, make_fetcher: MakeFetcher) -> None:
    gate = asyncio.Event()

    async def wait_then_answer(writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        await answer(BODY, "200 OK", "Connection: close")(writer)

    server = await servers.start(wait_then_answer)
    fetcher = make_fetcher(max_parallel=2)
    url = f"http://media.test:{server.port}/"
    fetches = [asyncio.create_task(fetch(fetcher, url)) for _ in range(6)]
    while len(server.heads) < 2:
        await asyncio.sleep(0.01)
    gate.set()
    assert await asyncio.gather(*fetches) == [BODY] * 6
    assert server.max_open == 2


async def test_clients_fetch_in_turn(servers: Servers, make_fetcher: MakeFetcher) -> None:
    server = await servers.start(answer(BODY, "200 OK", "Connection: close"))
    fetcher = make_fetcher(max_parallel=1)

    def fetch_for(client_id: str, number: int) -> asyncio.Task[bytes]:
        context = contextvars.copy_context()
        context.run(CURRENT_CLIENT.set, client_id)
        url = f"http://media.test:{server.port}/{client_id}{number}"
        return asyncio.create_task(fetch(fetcher, url), context=context)

    fetches = [fetch_for(*numbered) for numbered in (("a", 0), ("a", 1), ("a", 2), ("b", 0))]
    await asyncio.gather(*fetches)
    paths = [head.split(b" ")[1].decode() for head in server.heads]
    assert paths == ["/a0", "/a1", "/b0", "/a2"]


async def test_what_cannot_be_held_is_not_fetched_to_its_end(
    servers: Servers, make_fetcher: MakeFetcher
) -> None:
    server = await servers.start(raw(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000, then_wait=True))
    held: list[int] = []

    def hold(num_bytes: int) -> None:
        held.append(num_bytes)
        if sum(held) > 4000:
            raise Overloaded("too many", "overloaded")

    with pytest.raises(Overloaded):
        url = f"http://media.test:{server.port}/"
        await make_fetcher().fetch(url, max_bytes=10**9, param="url", hold=hold)


async def test_a_cancelled_fetch_gives_its_slot_back(
    servers: Servers, make_fetcher: MakeFetcher
) -> None:
    server = await servers.start(raw(b"", then_wait=True), answer())
    fetcher = make_fetcher(max_parallel=1)
    url = f"http://media.test:{server.port}/"
    first = asyncio.create_task(fetch(fetcher, url))
    while not server.heads:
        await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert first.cancelled()
    assert await fetch(fetcher, url) == BODY


@dataclass
class Authority:
    """A certificate authority of this test run."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def trust(self) -> ssl.SSLContext:
        pem = self.certificate.public_bytes(serialization.Encoding.PEM).decode()
        return ssl.create_default_context(cadata=pem)

    def issue(self, name: str) -> ssl.SSLContext:
        """A server context with a certificate for `name`."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternative = x509.SubjectAlternativeName([x509.DNSName(name)])
        certificate = (
            make_builder(name, self.certificate.subject, key)
            .add_extension(alternative, critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False
            )
            .sign(self.key, hashes.SHA256())
        )
        path = self.folder / f"{name}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


def make_builder(
    name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    certificate = (
        make_builder("Test authority", name, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .sign(key, hashes.SHA256())
    )
    return Authority(tmp_path_factory.mktemp("tls"), key, certificate)


async def test_tls_checks_the_name_and_sends_it_although_the_address_is_pinned(
    servers: Servers, make_fetcher: MakeFetcher, resolver: Resolver, authority: Authority
) -> None:
    context = authority.issue("media.test")
    names: list[str | None] = []
    context.set_servername_callback(lambda _socket, name, _context: names.append(name))
    server = await servers.start(answer(), tls=context)
    fetcher = make_fetcher(ssl_context=authority.trust(), http_allowed=False)
    assert await fetch(fetcher, f"https://media.test:{server.port}/a.png") == BODY
    assert names == ["media.test"]
    assert f"Host: media.test:{server.port}".encode() in server.heads[0]


async def test_a_certificate_for_another_name_is_refused(
    servers: Servers, make_fetcher: MakeFetcher, authority: Authority
) -> None:
    server = await servers.start(answer(), tls=authority.issue("other.test"))
    fetcher = make_fetcher(ssl_context=authority.trust())
    url = f"https://media.test:{server.port}/"
    await assert_error(fetcher, url, FetchFailed, "fetch_failed")
    assert server.heads == []


async def test_an_unknown_authority_is_refused_by_default(
    servers: Servers, make_fetcher: MakeFetcher, authority: Authority
) -> None:
    server = await servers.start(answer(), tls=authority.issue("media.test"))
    url = f"https://media.test:{server.port}/"
    await assert_error(make_fetcher(), url, FetchFailed, "fetch_failed")
    assert server.heads == []


async def test_a_downgrade_to_http_is_refused_unless_http_is_allowed(
    servers: Servers, make_fetcher: MakeFetcher, authority: Authority
) -> None:
    plain = await servers.start(answer())
    downgrade = redirect(f"http://media.test:{plain.port}/")
    server = await servers.start(downgrade, tls=authority.issue("media.test"))
    url = f"https://media.test:{server.port}/"
    strict = make_fetcher(ssl_context=authority.trust(), http_allowed=False)
    await assert_error(strict, url, UrlNotAllowed, "url_not_allowed")
    assert plain.heads == []
    relaxed = make_fetcher(ssl_context=authority.trust(), http_allowed=True)
    assert await fetch(relaxed, url) == BODY
