"""A request on /ws becomes a principal with its wishes, or a refusal. Pure."""

from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from gateway.admission.handshake import Handshake, check_handshake, choose_subprotocol
from gateway.admission.locality import refuse_unless_local
from gateway.admission.refusal import Refusal
from gateway.admission.request import Request
from shared.errors import InvalidUserId
from shared.message import EVENT_TYPES
from shared.users import validate_user_id


class Admitted(NamedTuple):
    """Who connects and what they asked for."""

    user_id: str
    types: frozenset[bytes] | None
    """Only these event types; None for all."""
    handshake: Handshake


class Refused(NamedTuple):
    """A refusal, with the handshake if there is a valid one."""

    refusal: Refusal
    handshake: Handshake | None = None


def admit(request: Request, peer_host: str, *, everybody: bool) -> Admitted | Refused:
    """Decide on a handshake. `everybody` is AUTH_MODE=none, else only local clients are let in."""
    refusal = check_handshake(request)
    if refusal is not None:
        return Refused(refusal)
    subprotocol = choose_subprotocol(request)
    if isinstance(subprotocol, Refusal):
        return Refused(subprotocol)
    handshake = Handshake(request.headers[b"sec-websocket-key"], subprotocol)
    refusal = None if everybody else refuse_unless_local(request, peer_host)
    admitted = refusal or _read_query(request.query, handshake)
    return Refused(admitted, handshake) if isinstance(admitted, Refusal) else admitted


def _read_query(query: bytes, handshake: Handshake) -> Admitted | Refusal:
    try:
        options = _parse_query(query)
    except ValueError as error:
        return _bad_request(str(error))
    if "user_id" not in options:
        return _bad_request("user_id is missing; connect to /ws?user_id=<id>.")
    try:
        user_id = validate_user_id(options["user_id"])
    except InvalidUserId as error:
        return _bad_request(f"user_id is {error}; it takes 1 to 128 characters without control characters.")
    types = None
    if "types" in options:
        types = frozenset(name.encode() for name in options["types"].split(","))
        if not types <= EVENT_TYPES:
            known = ", ".join(sorted(name.decode() for name in EVENT_TYPES))
            return _bad_request(f"types names an unknown type; known are {known}.")
    return Admitted(user_id, types, handshake)


def _parse_query(query: bytes) -> dict[str, str]:
    """Query values are UTF-8, percent-encoded; `+` is a plus. Raises ValueError."""
    options: dict[str, str] = {}
    for part in query.split(b"&"):
        if not part:
            continue
        raw_name, _, raw_value = part.partition(b"=")
        try:
            name, value = _decode(raw_name), _decode(raw_value)
        except UnicodeDecodeError:
            raise ValueError("The query is not percent-encoded UTF-8.") from None
        if name in options:
            raise ValueError("An option is in the query twice.")
        options[name] = value
    return options


def _decode(raw: bytes) -> str:
    return unquote_to_bytes(raw).decode() if b"%" in raw else raw.decode()


def _bad_request(message: str) -> Refusal:
    return Refusal(HTTPStatus.BAD_REQUEST, "bad_request", message)
