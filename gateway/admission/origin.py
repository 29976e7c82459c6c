"""Which pages may connect: a browser says whose page it is, and sends the user's cookies along
(RFC 6454 section 7, RFC 6455 section 10.2). Pure."""

import re
from http import HTTPStatus
from typing import Final

from gateway.admission.refusal import Refusal
from gateway.admission.request import Request
from gateway.close_codes import CloseCode

_ORIGIN: Final = re.compile(r"([a-z][0-9a-z+.-]*)://(\[[0-9a-f:.]+\]|[0-9a-z_.-]+)(:[0-9]{1,5})?")
_DEFAULT_PORTS: Final = {"http": ":80", "ws": ":80", "https": ":443", "wss": ":443"}


def parse_origin(text: str) -> str:
    """An origin as browsers send it: scheme, host and, unless it is the scheme's own, port; in lower
    case, without a path. Raises ValueError."""
    match = _ORIGIN.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:80]!r} is no origin; it is like https://app.example.com, without a path")
    scheme, host, port = match.groups()
    return f"{scheme}://{host}{'' if port == _DEFAULT_PORTS.get(scheme) else port or ''}"


def check_origin(request: Request, allowed: frozenset[str] | None) -> Refusal | None:
    """None when the page may connect, or no browser is involved. `allowed` are all that may, None
    is only pages of the host that was asked itself; the scheme may differ, since TLS may end before."""
    sent = request.header(b"origin")
    if sent is None:
        return None
    try:
        origin = parse_origin(sent.decode("latin-1").lower())
    except ValueError:
        return _refusal("null" if sent == b"null" else "malformed")
    if allowed is not None:
        return None if origin in allowed else _refusal("not among ALLOWED_ORIGINS")
    host = (request.header(b"host") or b"").decode("latin-1").lower()
    return None if _is_of_host(origin, host) else _refusal("of another host, and ALLOWED_ORIGINS is not set")


def _is_of_host(origin: str, host: str) -> bool:
    scheme, _, authority = origin.partition("://")
    # The port of a host that names none is that of a scheme, and of which one is not known here.
    default = _DEFAULT_PORTS.get(scheme, "")
    return authority in (host, host.removesuffix(default) if default else host)


def _refusal(why: str) -> Refusal:
    message = f"The Origin is {why}. Name the page's origin in ALLOWED_ORIGINS if it is one of yours."
    return Refusal(HTTPStatus.FORBIDDEN, "origin_not_allowed", message, CloseCode.ORIGIN_NOT_ALLOWED)
