"""Media URLs: what a client may write, parsed once.

The object that is checked here is the object that is connected to. Strings on which URL parsers are
known to disagree (backslashes, control characters, user info) are refused before parsing.
"""

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address

import httpx

from multimodal.errors import MediaError

_AUTHORITY = re.compile(r"https?://([^/?#]+)", re.IGNORECASE)
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


class UrlNotAllowed(MediaError):
    """A media URL that this server does not fetch; `code` is `url_not_allowed`."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "url_not_allowed")


class UrlRules:
    """The URLs that may be fetched: https (http if `http_allowed`), no user info, any port.

    Domains are host names; `*.example.com` stands for every name below `example.com`, but not for
    `example.com` itself. No `allowed_domains` allow every host; `denied_domains` win.
    """

    def __init__(
        self,
        *,
        http_allowed: bool,
        allowed_domains: tuple[str, ...],
        denied_domains: tuple[str, ...] = (),
    ) -> None:
        self._schemes = ("https", "http") if http_allowed else ("https",)
        self._allowed = tuple(map(ascii_domain, allowed_domains))
        self._denied = tuple(map(ascii_domain, denied_domains))

    def parse(self, url: str) -> httpx.URL:
        """Raises: UrlNotAllowed."""
        authority = _AUTHORITY.match(url)
        if authority is None:
            raise UrlNotAllowed(f"media URLs must start with {self._schemes[-1]}:// or data:")
        if not url.isprintable() or " " in url or "\\" in url:
            raise UrlNotAllowed("the media URL has a space, a backslash or a control character")
        if "@" in authority[1]:
            raise UrlNotAllowed("media URLs must not have a user name or a password")
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, ValueError) as exc:
            raise UrlNotAllowed("the media URL is malformed") from exc
        self._check(parsed)
        return parsed

    def _check(self, url: httpx.URL) -> None:
        if url.scheme not in self._schemes:
            raise UrlNotAllowed(f"media URLs with {url.scheme}:// are not allowed")
        if url.port is not None and not 0 < url.port < 65536:
            raise UrlNotAllowed("the port of the media URL is not between 1 and 65535")
        host = _plain_host(url.raw_host.decode("ascii"))
        if host is None:
            raise UrlNotAllowed("the media URL has no proper host name")
        if any(_matches(host, domain) for domain in self._denied):
            raise UrlNotAllowed("the host of the media URL is among the denied domains")
        if self._allowed and not any(_matches(host, domain) for domain in self._allowed):
            raise UrlNotAllowed("the host of the media URL is not among the allowed domains")


def _plain_host(host: str) -> str | None:
    """A name that no resolver could take for an address, or an address, spelled in one way.

    None for anything else: other notations of addresses, scope ids, dots at the end.
    """
    for family in (IPv4Address, IPv6Address):
        try:
            address = family(host)
        except AddressValueError:
            continue
        return None if getattr(address, "scope_id", None) else str(address)
    is_name = _HOST_NAME.fullmatch(host) and not _NUMBER.fullmatch(host.rpartition(".")[2])
    return host if is_name else None


def _matches(host: str, domain: str) -> bool:
    return host.endswith(domain[1:]) if domain.startswith("*.") else host == domain


def ascii_domain(domain: str) -> str:
    """`*.bücher.example` -> `*.xn--bcher-kva.example`. Raises: ValueError if it is no host name."""
    wildcard = "*." if domain.startswith("*.") else ""
    try:
        host = httpx.URL(scheme="https", host=domain.removeprefix(wildcard)).raw_host.decode()
    except httpx.InvalidURL:
        host = ""
    plain = _plain_host(host)
    if plain is None:
        raise ValueError(f"{domain!r} is not a host name")
    return wildcard + plain
