"""A request becomes a principal with its wishes, or a refusal. Pure."""

from http import HTTPStatus
from typing import NamedTuple

from gateway.admission.handshake import V1, Handshake, check_event_request, check_handshake, choose_subprotocol
from gateway.admission.locality import refuse_unless_local
from gateway.admission.refusal import Refusal
from gateway.admission.request import Request
from gateway.admission.wishes import Asked, parse_query
from gateway.frames import Variant


class Admitted(NamedTuple):
    """Who connects and what they asked for. `handshake` is None for an event stream."""

    asked: Asked
    variant: Variant
    handshake: Handshake | None


class Refused(NamedTuple):
    """A refusal, with the handshake if there is a valid one. `variant` is None where that is not known."""

    refusal: Refusal
    variant: Variant | None = None
    handshake: Handshake | None = None


def admit(request: Request, peer_host: str, *, everybody: bool) -> Admitted | Refused:
    """Decide on a WebSocket. `everybody` is AUTH_MODE=none, else only local clients are let in."""
    refusal = check_handshake(request)
    if refusal is not None:
        return Refused(refusal)
    subprotocol = choose_subprotocol(request)
    if isinstance(subprotocol, Refusal):
        return Refused(subprotocol)
    handshake = Handshake(request.headers[b"sec-websocket-key"], subprotocol)
    asked = identify(request, peer_host, everybody=everybody)
    variant = Variant.V1 if subprotocol == V1 else Variant.PLAIN
    return Refused(asked, variant, handshake) if isinstance(asked, Refusal) else Admitted(asked, variant, handshake)


def admit_events(request: Request, peer_host: str, *, everybody: bool) -> Admitted | Refused:
    """Decide on an event stream."""
    refusal = check_event_request(request)
    if refusal is not None:
        return Refused(refusal)
    last_event_id = request.header(b"last-event-id")
    asked = identify(request, peer_host, everybody=everybody, last_event_id=last_event_id)
    if isinstance(asked, Refusal):
        return Refused(asked, Variant.EVENTS)
    return Admitted(asked, Variant.EVENTS, None)


def identify(
    request: Request, peer_host: str, *, everybody: bool, last_event_id: bytes | None = None
) -> Asked | Refusal:
    """Who asks, and for what: the same for every way in."""
    refusal = None if everybody else refuse_unless_local(request, peer_host)
    if refusal is not None:
        return refusal
    try:
        return parse_query(request.query, last_event_id)
    except ValueError as error:
        return Refusal(HTTPStatus.BAD_REQUEST, "bad_request", str(error))
