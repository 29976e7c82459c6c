"""Is it a WebSocket handshake (RFC 6455 section 4.2), and its answer. Pure."""

import re
from base64 import b64encode
from hashlib import sha1
from http import HTTPStatus
from typing import Final, NamedTuple

from gateway.admission.refusal import Refusal, refusal_response
from gateway.admission.request import Request
from gateway.control_frames import Error
from gateway.deflate import negotiate
from gateway.frames import Variant, close_frame, frame_control

V1: Final = b"notify.v1"
PLAIN: Final = b"notify.plain"
SUBPROTOCOLS: Final = (V1, PLAIN)

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY: Final = re.compile(rb"[A-Za-z0-9+/]{21}[AQgw]==")
_TO_WEBSOCKET: Final = (("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13"))


class Handshake(NamedTuple):
    """What the answer to a valid handshake is made of."""

    key: bytes
    """Sec-WebSocket-Key."""
    subprotocol: bytes | None
    """The one of ours that the client offered, if any."""
    extensions: bytes | None = None
    """What is agreed on: compression (RFC 7692), or nothing."""


def check_handshake(request: Request) -> Refusal | None:
    """None if `request` is a WebSocket handshake that can be answered with 101."""
    if request.method != b"GET":
        return _get_only("/ws")
    upgrades = b"websocket" in (token.lower() for token in request.tokens(b"upgrade"))
    connection = b"upgrade" in (token.lower() for token in request.tokens(b"connection"))
    if not request.is_http_1_1 or not upgrades or not connection:
        return _upgrade_required("/ws takes WebSocket handshakes only (HTTP/1.1 with Upgrade: websocket).")
    if request.header(b"sec-websocket-version") != b"13":
        return _upgrade_required("Sec-WebSocket-Version must be 13.")
    key = request.header(b"sec-websocket-key")
    if key is None or _KEY.fullmatch(key) is None:
        return _bad_request("Sec-WebSocket-Key must be 16 bytes in base64, once.")
    return _check_get(request)


def check_event_request(request: Request) -> Refusal | None:
    """None if `request` can be answered with an event stream."""
    return _check_get(request) if request.method == b"GET" else _get_only("/events")


def _get_only(path: str) -> Refusal:
    return Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed", f"{path} takes GET.", None, (("Allow", "GET"),))


def _check_get(request: Request) -> Refusal | None:
    host = request.header(b"host")
    if host is None or b"," in host:
        return _bad_request("Host must be given, once.")
    if request.has_body:
        return _bad_request("A request for a connection has no body.")
    return None


def choose_subprotocol(request: Request) -> bytes | Refusal | None:
    """Ours among those offered; None when none was offered; a refusal when none of them is ours."""
    offered = request.tokens(b"sec-websocket-protocol")
    if not offered:
        return None
    for subprotocol in SUBPROTOCOLS:
        if subprotocol in offered:
            return subprotocol
    return _bad_request(
        f"None of the offered subprotocols is known here; offer {V1.decode()}, {PLAIN.decode()}, or none."
    )


def choose_extensions(request: Request) -> bytes | Refusal | None:
    """How compression is agreed on (RFC 7692 section 7); None when no offer of it can be taken."""
    offers = request.header(b"sec-websocket-extensions")
    if not offers:
        return None
    try:
        return negotiate(offers)
    except ValueError:
        return _bad_request("Sec-WebSocket-Extensions is malformed (RFC 6455 section 9.1).")


def switching_protocols(handshake: Handshake) -> bytes:
    """The 101 response."""
    accept = b64encode(sha1(handshake.key + _GUID, usedforsecurity=False).digest())
    chosen = b"Sec-WebSocket-Protocol: %s\r\n" % handshake.subprotocol if handshake.subprotocol else b""
    if handshake.extensions:
        chosen += b"Sec-WebSocket-Extensions: %s\r\n" % handshake.extensions
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %s\r\n%s\r\n" % (accept, chosen)
    )


def event_stream(retry_ms: int, origin: bytes | None) -> bytes:
    """The head of an event stream (HTML section 9.2), up to its end of no known length, and after
    how long a browser connects again when it ends. `origin`: of a page of another host that may read it."""
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n"
        b"X-Accel-Buffering: no\r\n%sConnection: close\r\n\r\nretry: %d\n\n" % (_cors_lines(origin), retry_ms)
    )


def cors_headers(origin: bytes) -> tuple[tuple[str, str], ...]:
    """What lets a page of that origin, which was found to be allowed, read an answer, also one to a
    request with the user's cookie (Fetch section 3.2)."""
    return (
        ("Access-Control-Allow-Origin", origin.decode("latin-1")),
        ("Access-Control-Allow-Credentials", "true"),
        ("Access-Control-Expose-Headers", "Retry-After, WWW-Authenticate"),
        ("Vary", "Origin"),
    )


def _cors_lines(origin: bytes | None) -> bytes:
    headers = () if origin is None else cors_headers(origin)
    return "".join(f"{name}: {value}\r\n" for name, value in headers).encode("latin-1")


def refusal_answer(
    refusal: Refusal, variant: Variant | None, handshake: Handshake | None, origin: bytes | None = None
) -> bytes:
    """How a refusal is said: by its HTTP status; to a client that offered a subprotocol of ours by
    an accepted handshake and a close frame, since a browser hides the status from its page; to an
    EventSource that is to come again by a stream that ends, since it gives up on any other status."""
    if variant is Variant.EVENTS and refusal.retry_after_ms is not None:
        error = frame_control(variant, Error(refusal.error, refusal.message))
        return event_stream(refusal.retry_after_ms, origin) + error
    if handshake is None or handshake.subprotocol is None or refusal.close is None:
        return refusal_response(refusal, () if origin is None else cors_headers(origin))
    return switching_protocols(handshake) + close_frame(refusal.close, refusal.close_reason)


def _upgrade_required(message: str) -> Refusal:
    return Refusal(HTTPStatus.UPGRADE_REQUIRED, "upgrade_required", message, None, _TO_WEBSOCKET)


def _bad_request(message: str) -> Refusal:
    return Refusal(HTTPStatus.BAD_REQUEST, "bad_request", message)
