"""What may be fetched: URLs, addresses, domains, and what a data URL may hold. No sockets here."""

import base64
import socket
from ipaddress import ip_address

import pytest

from multimodal.errors import MediaCorrupt, MediaTooLarge, UnsupportedMedia
from server.address_check import IPAddress, is_public_address
from server.media_fetch import DataUrl, MediaFetcher, decode_data_url
from server.media_url import UrlNotAllowed, UrlRules

HTTPS_ONLY = UrlRules(http_allowed=False, allowed_domains=())


def make_fetcher(*answers: str, **options: object) -> MediaFetcher:
    """A fetcher whose resolver gives these addresses for every name."""

    async def resolve(host: str, port: int) -> tuple[IPAddress, ...]:
        return tuple(ip_address(answer) for answer in answers)

    settings: dict[str, object] = {
        "http_allowed": True,
        "allowed_domains": (),
        "connect_timeout_s": 1.0,
        "total_timeout_s": 5.0,
        "max_redirects": 2,
        "max_parallel": 2,
        "resolve": resolve,
    }
    return MediaFetcher(**(settings | options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "192.0.0.8",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "224.0.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "233.252.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "::ffff:10.0.0.1",
        "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:808:808::1",
        "3fff::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
    ],
)
def test_special_addresses_are_not_public(address: str) -> None:
    assert not is_public_address(ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "2a00:1450::1"])
def test_ordinary_addresses_are_public(address: str) -> None:
    assert is_public_address(ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com/a.png",
        "//example.com/a.png",
        "http://example.com/a.png",  # http is off
        "file:///etc/passwd",
        "ftp://example.com/a.png",
        "gopher://example.com/",
        "jar:https://example.com/",
        "https:/example.com/a.png",
        "https:example.com",
        "https://",
        "https:///a.png",
        "https://user@example.com/",
        "https://user:password@example.com/",
        "https://@example.com/",
        "https://example.com@10.0.0.1/",
        "https://example.com\\@10.0.0.1/",
        "https://10.0.0.1\\.example.com/",
        "https:\\\\example.com/",
        "https://example.com /a.png",
        "https://example.com/a\tb.png",
        "https://example.com/a\r\nHost: other",
        "https://exa\u0000mple.com/",
        "https://example.com:port/",
        "https://example.com:99999/",
        "https://example.com:0/",
        "https://example.com./a.png",
        "https://.example.com/",
        "https://example..com/",
        "https://exa%6dple.com/",
        "https://" + "a" * 64 + ".com/",
        "https://" + "a." * 130 + "com/",
        "https://2130706433/",
        "https://017700000001/",
        "https://0x7f000001/",
        "https://0x7f.0.0.0x1/",
        "https://127.1/",
        "https://127.0.0.010/",
        "https://127.0.0.1./",
        "https://256.256.256.256/",
        "https://1.2.3.4.5/",
        "https://１２７.０.０.１/",
        "https://①②⑦.⓪.⓪.①/",
        "https://[fe80::1%25eth0]/",
        "https://[::1/",
    ],
)
def test_odd_urls_are_refused(url: str) -> None:
    with pytest.raises(UrlNotAllowed) as refusal:
        HTTPS_ONLY.parse(url)
    assert refusal.value.code == "url_not_allowed"


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://example.com/a.png?x=1#top", "example.com"),
        ("HTTPS://EXAMPLE.com:8443/a.png", "example.com"),
        ("https://bücher.example/a.png", "xn--bcher-kva.example"),
        ("https://my_bucket.s3.example.com/a%2Fb%20c.png", "my_bucket.s3.example.com"),
        ("https://8.8.8.8/a.png", "8.8.8.8"),
        ("https://[2606:4700::1111]/a.png", "2606:4700::1111"),
        ("https://1.example", "1.example"),
    ],
)
def test_ordinary_urls_are_accepted(url: str, host: str) -> None:
    assert HTTPS_ONLY.parse(url).raw_host.decode() == host


def test_http_is_accepted_when_allowed() -> None:
    rules = UrlRules(http_allowed=True, allowed_domains=())
    assert rules.parse("http://example.com/").scheme == "http"


@pytest.mark.parametrize(
    ("url", "is_allowed"),
    [
        ("https://example.com/a", True),
        ("https://EXAMPLE.COM/a", True),
        ("https://sub.example.com/a", False),
        ("https://example.com.evil.test/a", False),
        ("https://evilexample.com/a", False),
        ("https://img.cdn.test/a", True),
        ("https://a.b.cdn.test/a", True),
        ("https://cdn.test/a", False),
        ("https://evilcdn.test/a", False),
        ("https://xn--bcher-kva.example/a", True),
        ("https://8.8.8.8/a", False),
    ],
)
def test_allowed_domains_are_exact_or_wildcards(url: str, is_allowed: bool) -> None:
    domains = ("Example.com", "*.cdn.test", "bücher.example")
    rules = UrlRules(http_allowed=False, allowed_domains=domains)
    if is_allowed:
        rules.parse(url)
    else:
        with pytest.raises(UrlNotAllowed, match="allowed domains"):
            rules.parse(url)


@pytest.mark.parametrize("domain", ["", "*", "exa mple.com", "example.com/path"])
def test_an_allowed_domain_that_is_no_host_is_refused_at_start(domain: str) -> None:
    with pytest.raises(ValueError):
        UrlRules(http_allowed=False, allowed_domains=(domain,))


@pytest.mark.parametrize(
    "answers",
    [("127.0.0.1",), ("169.254.169.254",), ("8.8.8.8", "10.0.0.1"), ("2606:4700::1111", "::1"), ()],
)
async def test_a_name_with_any_private_address_is_refused(answers: tuple[str, ...]) -> None:
    fetcher = make_fetcher(*answers)
    with pytest.raises(UrlNotAllowed) as refusal:
        await fetcher.fetch("http://name.test/", max_bytes=10, param="messages[0]")
    await fetcher.close()
    assert refusal.value.message == "the host of the media URL has no public address"
    assert refusal.value.param == "messages[0]"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://127。0。0。1/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://localhost/",
        "http://169.254.169.254/",
    ],
)
async def test_the_system_resolver_leads_to_the_same_check(url: str) -> None:
    fetcher = make_fetcher(resolve=None)
    with pytest.raises(UrlNotAllowed, match="no public address"):
        await fetcher.fetch(url, max_bytes=10, param="p")
    await fetcher.close()


async def test_an_unknown_name_looks_like_a_private_one() -> None:
    async def resolve(host: str, port: int) -> tuple[IPAddress, ...]:
        raise socket.gaierror(socket.EAI_NONAME, "secret resolver text")

    fetcher = make_fetcher(resolve=resolve)
    with pytest.raises(UrlNotAllowed) as refusal:
        await fetcher.fetch("http://name.test/", max_bytes=10, param="p")
    await fetcher.close()
    assert refusal.value.message == "the host of the media URL has no public address"


def encode(*payloads: bytes) -> str:
    return ",".join(base64.b64encode(payload).decode() for payload in payloads)


def decode(url: str, *, max_bytes: int = 100, max_frames: int = 8) -> DataUrl:
    return decode_data_url(url, max_bytes=max_bytes, max_frames=max_frames, param="p")


def test_a_data_url_is_decoded() -> None:
    data_url = decode("data:image/PNG;name=a;base64," + encode(b"abc"), max_bytes=3)
    assert data_url.media_type == "image/png"
    assert data_url.payloads == (b"abc",)


def test_a_video_data_url_holds_several_frames() -> None:
    url = "data:video/jpeg;base64," + encode(b"a", b"bc", b"def")
    assert decode(url, max_bytes=6).payloads == (b"a", b"bc", b"def")


@pytest.mark.parametrize("payloads", [(b"abcd",), (b"ab", b"cd"), (b"abcde",), (b"abcdef",)])
def test_a_data_url_over_the_limit_is_refused(payloads: tuple[bytes, ...]) -> None:
    with pytest.raises(MediaTooLarge, match="exceeds 3 bytes") as refusal:
        decode("data:video/jpeg;base64," + encode(*payloads), max_bytes=3)
    assert (refusal.value.code, refusal.value.param) == ("media_too_large", "p")


def test_the_limit_is_checked_before_the_base64() -> None:
    with pytest.raises(MediaTooLarge):
        decode("data:image/png;base64," + "!" * 100, max_bytes=3)


def test_too_many_frames_are_refused() -> None:
    url = "data:video/jpeg;base64," + encode(*[b"a"] * 4)
    with pytest.raises(MediaTooLarge, match="more than 3 frames") as refusal:
        decode(url, max_frames=3)
    assert refusal.value.code == "too_many_frames"


@pytest.mark.parametrize(
    "url",
    ["data:", "data:,abc", "data:image/png,abc", "data:;base64,YWJj", "data:png;base64,YWJj", "x"],
)
def test_a_data_url_without_type_or_base64_is_refused(url: str) -> None:
    with pytest.raises(UnsupportedMedia) as refusal:
        decode(url)
    assert refusal.value.code == "invalid_data_url"


@pytest.mark.parametrize(
    "body",
    [
        "",
        "YWJ",
        "YW Jj",
        "YWJj\n",
        "YWJj=",
        "YWJj====",
        "YW==YWJj",
        "=YWJj",
        "YW-_",
        "YWJj,YWJj",
        "ä",
    ],
)
def test_sloppy_base64_is_refused(body: str) -> None:
    with pytest.raises(MediaCorrupt) as refusal:
        decode("data:image/png;base64," + body)
    assert refusal.value.code == "invalid_data_url"
    assert body == "" or body not in refusal.value.message


def test_an_empty_frame_is_refused() -> None:
    with pytest.raises(MediaCorrupt, match="empty"):
        decode("data:video/jpeg;base64,YWJj,,YWJj")
