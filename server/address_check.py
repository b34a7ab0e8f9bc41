"""Connections to the public internet only, made on behalf of a client.

A media URL is written by whoever sends the request, so it must never reach the machine itself, its
network, or a cloud metadata service. The check is made on addresses, after resolution: a name or an
odd notation (`0x7f.1`, `2130706433`) says nothing about where it leads. What was checked is what is
connected to, so a name that resolves differently a moment later gains nothing.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import httpcore

from server.media_url import UrlNotAllowed

IPAddress = IPv4Address | IPv6Address
Resolver = Callable[[str, int], Awaitable[tuple[IPAddress, ...]]]
AddressCheck = Callable[[IPAddress], bool]

# IANA's registries of special-purpose addresses. Spelled out because `is_global` answers
# differently in the patch releases of Python 3.11. A network's own NAT64 prefix cannot be known.
_SPECIAL_IPV4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this host
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # carrier-grade NAT
            "127.0.0.0/8",  # loopback
            "168.63.129.16/32",  # Azure's metadata and agents, in a public range
            "169.254.0.0/16",  # link-local, cloud metadata
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # relays of 6to4
            "192.168.0.0/16",  # private
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/3",  # multicast, reserved, broadcast
        ),
    )
)

# Everything else in IPv6 lies outside of global unicast: unique local, link-local, multicast, and
# the addresses that embed an IPv4 address (v4-mapped, v4-compatible, NAT64 64:ff9b::/96).
_GLOBAL_IPV6 = IPv6Network("2000::/3")
_SPECIAL_IPV6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocol assignments; 2001::/32 is Teredo, which embeds IPv4
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4, which embeds IPv4
            "3fff::/20",  # documentation
        ),
    )
)


def is_public_address(address: IPAddress) -> bool:
    """Whether `address` is an ordinary unicast address of the public internet."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _SPECIAL_IPV4)
    return address in _GLOBAL_IPV6 and not any(address in network for network in _SPECIAL_IPV6)


class SystemResolver:
    """`getaddrinfo` in threads of its own, so that a dead name server stalls nothing else."""

    def __init__(self, max_threads: int) -> None:
        self._threads = ThreadPoolExecutor(max_threads, thread_name_prefix="media-dns")

    async def resolve(self, host: str, port: int) -> tuple[IPAddress, ...]:
        loop = asyncio.get_running_loop()
        answers = await loop.run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        # dict: without duplicates, in the order of preference
        return tuple(ip_address(address) for address in dict.fromkeys(a[4][0] for a in answers))

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Opens connections for the pool: resolves once, checks, and connects to what was checked.

    The pool does TLS on top of the stream, with the name; it never sees the address.
    """

    def __init__(self, resolve: Resolver, is_allowed: AddressCheck) -> None:
        self._resolve = resolve
        self._is_allowed = is_allowed
        self._sockets = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Raises: UrlNotAllowed if any address of `host` may not be connected to."""
        failure: Exception | None = None
        for address in await self._checked_addresses(host, port):
            try:
                return await self._sockets.connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                failure = exc
        assert failure is not None  # there is at least one address
        raise failure

    async def _checked_addresses(self, host: str, port: int) -> tuple[IPAddress, ...]:
        """A name that is unknown and a name of the private network look the same from outside."""
        try:
            addresses = await self._resolve(host, port)
        except socket.gaierror:
            addresses = ()
        if not addresses or not all(self._is_allowed(address) for address in addresses):
            raise UrlNotAllowed("the host of the media URL has no public address")
        return addresses
