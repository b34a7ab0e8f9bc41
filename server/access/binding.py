"""Whether the server may listen where the settings say."""

import socket
from ipaddress import IPv6Address, ip_address

from server.settings import Settings, SettingsError


def check_binding(settings: Settings) -> None:
    """Raises: SettingsError if machines elsewhere could use the server without a key."""
    if settings.access.api_keys_file is not None or settings.server.insecure:
        return
    host = settings.server.host
    if not is_loopback(host):
        raise SettingsError(
            f"server.host: {host} can be reached from other machines, and every client could use "
            "the server: make API keys (`qwen3vl-serve keys add NAME --file FILE`, then "
            "`--api-keys-file FILE`), or say `--insecure`"
        )


def is_loopback(host: str) -> bool:
    """Whether all addresses of a name are this machine's own; one of no address is not wide."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return True  # what cannot be listened on is reported as that
    return all(_is_loopback_address(str(address[0])) for *_, address in found)


def _is_loopback_address(address: str) -> bool:
    ip = ip_address(address.partition("%")[0])
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return (mapped or ip).is_loopback
