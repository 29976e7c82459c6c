"""A request becomes a principal with its wishes, or a refusal. Pure, but for what a token is judged by."""

import asyncio
from http import HTTPStatus
from typing import NamedTuple

from gateway.admission.credentials import find_token
from gateway.admission.handshake import (
    V1,
    Handshake,
    check_event_request,
    check_handshake,
    choose_extensions,
    choose_subprotocol,
)
from gateway.admission.locality import refuse_unless_local
from gateway.admission.origin import check_origin
from gateway.admission.policy import Judgement, Policy
from gateway.admission.refusal import Refusal
from gateway.admission.request import Request
from gateway.admission.wishes import Asked, parse_options, parse_wishes
from gateway.authentication.token import Claims
from gateway.close_codes import CloseCode
from gateway.frames import Variant


class Identified(NamedTuple):
    """Who asks, and for what. `claims` are those of the token, with AUTH_MODE=jwt."""

    asked: Asked
    claims: Claims | None


class Admitted(NamedTuple):
    """Who connects and what they asked for. `handshake` is None for an event stream."""

    asked: Asked
    variant: Variant
    handshake: Handshake | None
    claims: Claims | None = None
    origin: bytes | None = None
    """Of the page that may read the answer (CORS)."""


class Refused(NamedTuple):
    """A refusal, with the handshake if there is a valid one. `variant` is None where that is not known."""

    refusal: Refusal
    variant: Variant | None = None
    handshake: Handshake | None = None
    origin: bytes | None = None


class AskAgain(NamedTuple):
    """Ask again when `ready` is done: the token's key is being fetched."""

    ready: asyncio.Future[None]


def admit(request: Request, peer_host: str, policy: Policy) -> Admitted | Refused | AskAgain:
    """Decide on a WebSocket."""
    refusal = check_handshake(request)
    if refusal is not None:
        return Refused(refusal)
    subprotocol = choose_subprotocol(request)
    if isinstance(subprotocol, Refusal):
        return Refused(subprotocol)
    extensions = choose_extensions(request) if policy.deflates else None
    if isinstance(extensions, Refusal):
        return Refused(extensions)
    handshake = Handshake(request.headers[b"sec-websocket-key"], subprotocol, extensions)
    variant = Variant.V1 if subprotocol == V1 else Variant.PLAIN
    identified = identify(request, peer_host, policy)
    if isinstance(identified, Refusal):
        return Refused(identified, variant, handshake)
    if isinstance(identified, AskAgain):
        return identified
    return Admitted(identified.asked, variant, handshake, identified.claims)


def admit_events(request: Request, peer_host: str, policy: Policy) -> Admitted | Refused | AskAgain:
    """Decide on an event stream."""
    refusal = check_event_request(request)
    if refusal is not None:
        return Refused(refusal)
    refusal = _refuse_page(request, peer_host, policy)
    if refusal is not None:
        return Refused(refusal, Variant.EVENTS)
    origin = request.header(b"origin")
    identified = _identify_sender(request, policy, request.header(b"last-event-id"))
    if isinstance(identified, Refusal):
        return Refused(identified, Variant.EVENTS, origin=origin)
    if isinstance(identified, AskAgain):
        return identified
    return Admitted(identified.asked, Variant.EVENTS, None, identified.claims, origin)


def identify(request: Request, peer_host: str, policy: Policy) -> Identified | Refusal | AskAgain:
    """Who asks, and for what: the same for every way in."""
    return _refuse_page(request, peer_host, policy) or _identify_sender(request, policy)


def _identify_sender(
    request: Request, policy: Policy, last_event_id: bytes | None = None
) -> Identified | Refusal | AskAgain:
    """The same, of a page that may ask."""
    try:
        options = parse_options(request.query)
        if policy.authenticate is None:
            return Identified(parse_wishes(options, last_event_id), None)
        token = find_token(request, options, cookie=policy.cookie, allow_query_token=policy.allow_query_token)
        judgement: Judgement = token if isinstance(token, Refusal) else policy.authenticate(token)
        if isinstance(judgement, Refusal):
            return judgement
        if not isinstance(judgement, Claims):
            return AskAgain(judgement)
        if options.setdefault("user_id", judgement.user_id) != judgement.user_id:
            return _of_another_user()
        return Identified(parse_wishes(options, last_event_id), judgement)
    except ValueError as error:
        return Refusal(HTTPStatus.BAD_REQUEST, "bad_request", str(error))


def allowed_origin(request: Request, peer_host: str, policy: Policy) -> bytes | None:
    """The Origin of the page that may read the answer, if a page asks and may."""
    origin = request.header(b"origin")
    return origin if origin is not None and _refuse_page(request, peer_host, policy) is None else None


def _refuse_page(request: Request, peer_host: str, policy: Policy) -> Refusal | None:
    """Whose page it is, and without AUTH_MODE from where it comes, whoever it is."""
    if policy.mode is None:
        refusal = refuse_unless_local(request, peer_host)
        if refusal is not None or policy.allowed_origins is None:
            return refusal
    return check_origin(request, policy.allowed_origins)


def _of_another_user() -> Refusal:
    message = "user_id is not the token's user; leave it out, or send that user's token."
    return Refusal(HTTPStatus.FORBIDDEN, "other_user", message, CloseCode.UNAUTHORIZED)
