"""Without AUTH_MODE only what is truly local is let in (DESIGN section 7). Pure."""

import re
from http import HTTPStatus
from ipaddress import ip_address
from typing import Final

from gateway.admission.forwarded import unmapped
from gateway.admission.refusal import Refusal
from gateway.admission.request import Request
from gateway.close_codes import CloseCode

_FORWARDING: Final = frozenset(
    (b"forwarded", b"via", b"x-real-ip", b"x-client-ip", b"true-client-ip", b"cf-connecting-ip")
)
_FORWARDING_FAMILY: Final = b"x-forwarded"

# Nothing but a name or an address, and a port: no user info, path or white space to mislead a parser.
_AUTHORITY: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z.-]+))(?::[0-9]*)?")
_ORIGIN: Final = re.compile(r"[A-Za-z][0-9A-Za-z+.-]*://(.*)")


def refuse_unless_local(request: Request, peer_host: str) -> Refusal | None:
    """None when peer, Host and Origin are all loopback and nothing was forwarded."""
    if not is_loopback(peer_host):
        return _refusal("this client's address is not loopback")
    if any(name in _FORWARDING or name.startswith(_FORWARDING_FAMILY) for name in request.headers):
        return _refusal("the request came through a proxy")
    host = request.header(b"host") or b""
    if not _is_loopback_authority(host.decode("latin-1")):
        return _refusal("the Host header is not loopback")
    origin = request.header(b"origin")
    if origin is not None and not _is_loopback_origin(origin.decode("latin-1")):
        return _refusal("the Origin header is not loopback")
    return None


def _refusal(why: str) -> Refusal:
    return Refusal(
        HTTPStatus.UNAUTHORIZED,
        "unauthorized",
        f"AUTH_MODE is not set, so only this machine itself is let in, and {why}. "
        "Set AUTH_MODE=jwt (with JWT_SECRET, JWT_PUBLIC_KEY or JWT_JWKS_URL) to let in who has a token, "
        "or AUTH_MODE=none to let everybody in.",
        CloseCode.UNAUTHORIZED,
        (("WWW-Authenticate", "Bearer"),),
    )


def _is_loopback_origin(origin: str) -> bool:
    match = _ORIGIN.fullmatch(origin)
    return match is not None and _is_loopback_authority(match[1])


def _is_loopback_authority(authority: str) -> bool:
    host = host_of(authority)
    return host is not None and is_loopback(host)


def host_of(authority: str) -> str | None:
    """The name or address in a Host, in lower case; None for what is none."""
    match = _AUTHORITY.fullmatch(authority)
    return None if match is None else (match[1] or match[2]).lower()


def is_loopback(host: str) -> bool:
    """Whether a peer, or a name in a Host, is this machine itself."""
    if host == "localhost":
        return True
    try:
        return unmapped(ip_address(host)).is_loopback
    except ValueError:
        return False
