"""Without AUTH_MODE only what is truly local is let in (DESIGN section 7). Pure."""

from http import HTTPStatus
from ipaddress import IPv6Address, ip_address
from typing import Final
from urllib.parse import urlsplit

from gateway.admission.refusal import Refusal
from gateway.admission.request import Request
from gateway.close_codes import CloseCode

_FORWARDING: Final = (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip", b"via")


def refuse_unless_local(request: Request, peer_host: str) -> Refusal | None:
    """None when peer, Host and Origin are all loopback and nothing was forwarded."""
    if not _is_loopback(peer_host):
        return _refusal("this client's address is not loopback")
    if any(request.header(name) is not None for name in _FORWARDING):
        return _refusal("the request came through a proxy")
    host = request.header(b"host") or b""
    if not _is_loopback_authority("//" + host.decode("latin-1")):
        return _refusal("the Host header is not loopback")
    origin = request.header(b"origin")
    if origin is not None and not _is_loopback_authority(origin.decode("latin-1")):
        return _refusal("the Origin header is not loopback")
    return None


def _refusal(why: str) -> Refusal:
    return Refusal(
        HTTPStatus.UNAUTHORIZED,
        "unauthorized",
        f"AUTH_MODE is not set, so only this machine itself is let in, and {why}. "
        "Set AUTH_MODE=none to let everybody in.",
        CloseCode.UNAUTHORIZED,
        (("WWW-Authenticate", "Bearer"),),
    )


def _is_loopback_authority(url: str) -> bool:
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return False
    return host is not None and _is_loopback(host)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback
