"""Media URLs: what is accepted leads to the same host for every parser; addresses; data URLs."""

import base64
import binascii
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

import httpx
import yarl
from hypothesis import example, given
from hypothesis import strategies as st

from multimodal.errors import MediaError
from server.address_check import is_public_address
from server.media_fetch import _join, decode_data_url
from server.media_url import UrlNotAllowed, UrlRules

RULES = UrlRules(http_allowed=True, allowed_domains=())
LIMITED = UrlRules(http_allowed=True, allowed_domains=("good.example", "*.good.example"))
_PIECES = (
    "http://", "https://", "HTTPS://", "//", "/", "\\", "@", ":", "?", "#", "[", "]", "%", ".",
    "。", "．", "good.example", "evil.example", "127.0.0.1", "0x7f.1", "2130706433", "[::1]",
    "::ffff:1.2.3.4", "[fe80::1%25eth0]", "80", "443", "00080", "65536", "a", "A", "ß", "K", "İ",
    "xn--", "xn--a", "-", "_", " ", "\t", "\n", "\0", "%00", "%2f", "%40", "\u200b", "\u00ad",
    "user", ";", "&", "localhost",
)  # fmt: skip
urls = st.lists(st.sampled_from(_PIECES) | st.text(max_size=2), max_size=8).map("".join)
urls = urls | urls.map(lambda rest: f"https://{rest}")


def plain(host: str | None) -> str:
    return (host or "").strip("[]").lower()


@given(urls)
@example("https://good.example@evil.example/")
@example("https://good.example:80\\@evil.example/")
@example("https://evil.example#good.example")
def test_every_parser_sees_the_same_host_in_an_accepted_url(url: str) -> None:
    try:
        parsed = RULES.parse(url)
    except UrlNotAllowed as error:
        assert len(error.message) < 200
        return
    host = plain(parsed.raw_host.decode())
    text = str(parsed)
    assert plain(httpx.URL(text).raw_host.decode()) == host
    assert plain(yarl.URL(text, encoded=True).raw_host) == host
    assert plain(urlsplit(text).hostname) == host
    assert parsed.scheme in ("http", "https") and not parsed.userinfo
    assert urlsplit(text).port == httpx.URL(text).port
    if url.isascii():  # in other scripts names are written differently, and looked up the same
        assert plain(urlsplit(url).hostname) == host
        assert plain(yarl.URL(url, encoded=True).raw_host) == host


@given(urls)
def test_only_allowed_domains_are_accepted(url: str) -> None:
    with suppress(UrlNotAllowed):
        host = LIMITED.parse(url).raw_host.decode()
        assert host == "good.example" or host.endswith(".good.example")


@given(urls.map(str.encode) | st.binary(max_size=20))
def test_a_redirect_is_a_url_or_refused(location: bytes) -> None:
    base = RULES.parse("https://good.example/a?b#c")
    with suppress(UrlNotAllowed):
        RULES.parse(_join(base, location))


@given(st.ip_addresses())
def test_a_public_address_is_none_of_a_special_kind(address: IPv4Address | IPv6Address) -> None:
    special = ("private", "loopback", "link_local", "multicast", "reserved", "unspecified")
    if is_public_address(address):
        assert not any(getattr(address, f"is_{name}") for name in special)


@given(st.ip_addresses(v=4), st.sampled_from(("::", "::ffff:", "64:ff9b::", "fe80::", "fd00::")))
def test_an_address_inside_another_one_is_not_public(inner: IPv4Address, prefix: str) -> None:
    assert not is_public_address(ip_address(f"{prefix}{inner}"))


_PAYLOADS = st.binary(max_size=40).map(lambda data: base64.b64encode(data).decode())
_BODIES = st.lists(_PAYLOADS | st.text("AZaz09+/=, \n-_é", max_size=8), max_size=4).map(",".join)
_HEADS = (
    "data:image/png;base64", "DATA:Image/PNG;BASE64", "data:video/jpeg;base64", "data:;base64",
    "data:image/png", "data:a/b;x=y;base64", "data:", "data", "image/png;base64",
    "data:a/b/c;base64",
)  # fmt: skip


@given(st.sampled_from(_HEADS), _BODIES, st.integers(0, 60), st.integers(1, 3))
def test_a_data_url_is_decoded_as_base64_or_refused(
    head: str, body: str, max_bytes: int, max_frames: int
) -> None:
    url = f"{head},{body}"
    try:
        decoded = decode_data_url(url, max_bytes=max_bytes, max_frames=max_frames, param="p")
    except MediaError as error:
        assert len(error.message) < 200
        return
    assert sum(map(len, decoded.payloads)) <= max_bytes
    assert len(decoded.payloads) <= max_frames
    parts = body.split(",") if decoded.media_type == "video/jpeg" else [body]
    with suppress(binascii.Error):
        assert decoded.payloads == tuple(base64.b64decode(part, validate=True) for part in parts)
