"""Whose connection it is behind proxies, for the cap on connections of an address. Pure."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_HOPS: Final = 32
"""Of X-Forwarded-For that are looked at."""


def parse_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Addresses and networks (CIDR). Raises ValueError."""
    try:
        return tuple(ip_network(text) for text in texts)
    except ValueError as error:
        raise ValueError(f"takes addresses and networks like 10.0.0.0/8, and {error}") from None


def parse_address(text: str) -> Address | None:
    """An address, as a socket or a proxy gives it: an IPv4 address that is mapped into IPv6 is IPv4;
    zone and port are dropped. None for what is none."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return unmapped(address)


def unmapped(address: Address) -> Address:
    """An IPv4 address that is mapped into IPv6 as what it is; any other as it is."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


def is_trusted(address: Address | None, proxies: Sequence[Network]) -> bool:
    return address is not None and any(address.version == network.version and address in network for network in proxies)


def client_address(peer: str, forwarded_for: bytes | None, proxies: Sequence[Network]) -> Address | None:
    """The rightmost hop that is not a trusted proxy: what is left of it anybody may have written. With
    hops that say nothing it is the last one that does. None when the peer has no address (a Unix
    socket)."""
    address = parse_address(peer)
    if not proxies or forwarded_for is None:
        return address
    hops = forwarded_for.rsplit(b",", MAX_HOPS)[-MAX_HOPS:]
    for hop in reversed(hops):
        if not is_trusted(address, proxies):
            break
        told = parse_address(hop.decode("latin-1").strip())
        if told is None:
            break
        address = told
    return address


def counted_as(address: Address) -> str:
    """What is counted together: an IPv4 address, or the /64 of an IPv6 one, which is one customer's."""
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Network((int(address) >> 64 << 64, 64)))
